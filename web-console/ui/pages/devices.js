import { h, html, useEffect, useState } from 'preact';
import { may } from '../account.js';
import * as api from '../api.js';
import { importTable } from '../backfill.js';
import { catalog, fetchCatalog } from '../catalog.js';
import { t } from '../i18n.js';
import { healthOf, HealthMark, states, useHealth } from '../health.js';
import { beat, learn, newcomer, newestOf } from '../live.js';
import { Confirm } from '../parts/dialog.js';
import { textOf } from '../parts/form.js';
import { number, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';
import { Tabs } from '../parts/tabs.js';
import { Save, Take } from '../parts/transfer.js';
import { route } from '../router.js';
import { Actuators } from './actuators.js';
import { DeviceForm } from './device-form.js';
import { KeyForm, KeyOnce } from './keys.js';
import { SensorForm } from './sensor-form.js';

export default function DevicesPage() {
  useEffect(() => void fetchCatalog().catch(complain), []);
  const part = route.value.parts[1] ?? '';
  return html`<div class="page">
    <header class="head"><h1>${t('nav.devices')}</h1></header>
    <${Tabs} label=${t('nav.devices')} tabs=${[
      { path: '/devices', text: t('nav.devices'), test: 'tab-devices' },
      { path: '/devices/sensors', text: t('sensors.title'), test: 'tab-sensors' },
      { path: '/devices/actuators', text: t('actuators.title'), test: 'tab-actuators' },
      ...(may('keys.read') ? [{ path: '/devices/keys', text: t('keys.title'), test: 'tab-keys' }] : []),
    ]} />
    ${part === '' && html`<${DeviceList} />`}
    ${part === 'sensors' && html`<${SensorList} />`}
    ${part === 'actuators' && html`<${Actuators} />`}
    ${part === 'keys' && html`<${KeyList} />`}
  </div>`;
}

/** @typedef {{ add: true } | { edit: api.Device } | { remove: api.Device } | { key: api.NewKey, device: string } | null} Open */

function DeviceList() {
  const [filter, setFilter] = useState({ q: '', health: '' });
  const isAll = filter.q.trim() === '' && filter.health === '';
  const { data, error, again } = useLoad(async () => {
    const found = await api.all((page) => api.devices({ q: filter.q.trim() || undefined, health: filter.health || undefined, ...page }));
    learn(found);
    return found;
  }, [newcomer.value, filter.q, filter.health]);
  useHealth();
  const [open, setOpen] = useState(/** @type {Open} */ (null));
  const close = () => setOpen(null);
  const makeKey = async (/** @type {string} */ device) => {
    try {
      setOpen({ key: await api.createDeviceKey(device), device });
    } catch (problem) {
      complain(problem);
    }
  };
  void beat.value;
  const add = html`<button type="button" class="primary" data-test="device-new" onClick=${() => setOpen({ add: true })}><${Icon} name="plus" />${t('devices.add')}</button>`;
  return html`
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data && data.length === 0 && isAll && html`<${Empty} title=${t('devices.none')} text=${t('devices.none-text')}>${add}<//>`}
    ${data &&
    !(data.length === 0 && isAll) &&
    html`<div class="above spread">${add}
        <input type="search" class="search" aria-label=${t('map.filter')} placeholder=${t('map.filter')} data-test="devices-search" value=${filter.q} onInput=${(/** @type {Event} */ event) => setFilter({ ...filter, q: textOf(event) })} />
        <label class="inline"><span>${t('health.title')}</span>
          <select data-test="devices-health" value=${filter.health} onChange=${(/** @type {Event} */ event) => setFilter({ ...filter, health: textOf(event) })}>
            <option value="">${t('dead.any')}</option>
            ${Object.entries(states()).map(([state, text]) => html`<option value=${state}>${text}</option>`)}
          </select>
        </label>
        ${h(Save, { name: 'devices.csv', text: 'CSV', load: api.exportDevices, test: 'devices-export' })}
        ${h(Take, { accept: '.csv,.json', take: async (text, name) => t('rules.imported', await api.importDevices(name.endsWith('.csv') ? { csv: text } : JSON.parse(text))), again, test: 'devices-import' })}
        ${h(Take, { accept: '.csv', text: t('devices.readings-import'), take: importTable, again, test: 'readings-import' })}
      </div>
      ${data.length === 0 && html`<p class="faint">${t('map.none-match')}</p>`}
      <div class="scroll" tabindex="0" role="region" aria-label=${t('nav.devices')}>
        <table data-test="devices-list">
          <thead><tr><th>${t('devices.name')}</th><th>${t('health.title')}</th><th>${t('devices.place')}</th><th>${t('sensors.title')}</th><th>${t('devices.last')}</th><th class="hide-text">${t('action.title')}</th></tr></thead>
          <tbody>
            ${data.map(
              (device) => html`<tr key=${device.name} data-test=${`device-${device.name}`}>
                <td><a href=${`#/device/${encodeURIComponent(device.name)}`}><b>${device.name}</b></a><span class="faint small block">${[device.label, device.group, ...(device.tags ?? [])].filter(Boolean).join(' · ')}</span></td>
                <td><${HealthMark} health=${healthOf(device)} test=${`health-${device.name}`} /></td>
                <td class="mono">${device.latitude === null || device.longitude === null ? html`<span class="faint">–</span>` : `${number(device.latitude, 4)}, ${number(device.longitude, 4)}`}</td>
                <td>${device.sensors.join(', ') || html`<span class="faint">–</span>`}</td>
                <td><${Time} at=${[...newestOf(device.name).values()][0]?.time} /></td>
                <td class="actions">
                  <button type="button" data-test="device-key" onClick=${() => makeKey(device.name)}><${Icon} name="key" />${t('keys.make')}</button>
                  <button type="button" class="icon" aria-label=${t('devices.edit', { name: device.name })} title=${t('action.edit')} onClick=${() => setOpen({ edit: device })}><${Icon} name="edit" /></button>
                  <button type="button" class="icon" aria-label=${t('devices.delete', { name: device.name })} title=${t('action.delete')} onClick=${() => setOpen({ remove: device })}><${Icon} name="trash" /></button>
                </td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>`}
    ${open && ('add' in open || 'edit' in open) && h(DeviceForm, { device: 'edit' in open ? open.edit : undefined, onClose: close, onDone: () => { close(); again(); } })}
    ${open && 'key' in open && html`<${KeyOnce} made=${open.key} device=${open.device} onClose=${close} />`}
    ${open &&
    'remove' in open &&
    html`<${Confirm} title=${t('devices.delete', { name: open.remove.name })} text=${t('devices.delete-text')} action=${t('action.delete')} onClose=${close} run=${async () => {
      await api.deleteDevice(open.remove.name);
      toast(t('devices.deleted', { name: open.remove.name }));
      await again();
    }} />`}`;
}

/** @typedef {{ add: true } | { edit: api.Sensor } | { remove: api.Sensor } | null} OpenSensor */

function SensorList() {
  const [open, setOpen] = useState(/** @type {OpenSensor} */ (null));
  const close = () => setOpen(null);
  const data = catalog.value;
  const add = html`<button type="button" class="primary" data-test="sensor-new" onClick=${() => setOpen({ add: true })}><${Icon} name="plus" />${t('sensors.add')}</button>`;
  return html`${!data && html`<${Loading} />`}
    ${data && data.length === 0 && html`<${Empty} title=${t('sensors.none')} text=${t('sensors.none-text')}>${add}<//>`}
    ${data &&
    data.length > 0 &&
    html`<div class="above">${add}</div>
      <ul class="cards" data-test="sensors-list">
        ${data.map(
          (sensor) => html`<li key=${sensor.name}>
            <div class="text">
              <h2>${sensor.name}</h2>
              <ul class="values">${sensor.values.map((value) => html`<li><b>${value.name}</b> <span>${[value.unit, value.label].filter(Boolean).join(' · ')}</span></li>`)}</ul>
            </div>
            <div class="row">
              <button type="button" class="icon" aria-label=${t('sensors.edit', { name: sensor.name })} title=${t('action.edit')} onClick=${() => setOpen({ edit: sensor })}><${Icon} name="edit" /></button>
              <button type="button" class="icon" aria-label=${t('sensors.delete', { name: sensor.name })} title=${t('action.delete')} onClick=${() => setOpen({ remove: sensor })}><${Icon} name="trash" /></button>
            </div>
          </li>`,
        )}
      </ul>`}
    ${open && ('add' in open || 'edit' in open) && h(SensorForm, { sensor: 'edit' in open ? open.edit : undefined, onClose: close, onDone: () => { close(); fetchCatalog().catch(complain); } })}
    ${open &&
    'remove' in open &&
    html`<${Confirm} title=${t('sensors.delete', { name: open.remove.name })} text=${t('sensors.delete-text')} action=${t('action.delete')} onClose=${close} run=${async () => {
      await api.deleteSensor(open.remove.name);
      await fetchCatalog();
    }} />`}`;
}

/** @typedef {{ add: true } | { key: api.NewKey } | { remove: api.ApiKey } | null} OpenKey */

function KeyList() {
  const { data, error, again } = useLoad(() => api.all(api.keys), []);
  const [open, setOpen] = useState(/** @type {OpenKey} */ (null));
  const close = () => setOpen(null);
  const add = html`<button type="button" class="primary" data-test="key-new" onClick=${() => setOpen({ add: true })}><${Icon} name="plus" />${t('keys.make')}</button>`;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data && data.length === 0 && html`<${Empty} title=${t('keys.none')} text=${t('keys.none-text')}>${add}<//>`}
    ${data &&
    data.length > 0 &&
    html`<div class="above">${add}</div>
      <div class="scroll" tabindex="0" role="region" aria-label=${t('keys.title')}>
        <table data-test="keys-list">
          <thead><tr><th>${t('keys.label')}</th><th>${t('keys.grants')}</th><th>${t('keys.created')}</th><th class="hide-text">${t('action.title')}</th></tr></thead>
          <tbody>
            ${data.map(
              (key) => html`<tr key=${key.id}>
                <td><b>${key.label}</b><span class="faint small block mono">${key.id}</span></td>
                <td class="mono small">${(key.grants ?? []).map((grant) => html`<span class="block">${grant.action} · ${grant.resource}</span>`)}</td>
                <td><${Time} at=${key.created} /></td>
                <td class="actions"><button type="button" class="icon" aria-label=${t('keys.revoke', { name: key.label })} title=${t('keys.revoke-short')} onClick=${() => setOpen({ remove: key })}><${Icon} name="trash" /></button></td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>`}
    ${open && 'add' in open && h(KeyForm, { onClose: close, onMade: (key) => { setOpen({ key }); again(); } })}
    ${open && 'key' in open && html`<${KeyOnce} made=${open.key} onClose=${close} />`}
    ${open &&
    'remove' in open &&
    html`<${Confirm} title=${t('keys.revoke', { name: open.remove.label })} text=${t('keys.revoke-text')} action=${t('keys.revoke-short')} onClose=${close} run=${async () => {
      await api.deleteKey(open.remove.id);
      toast(t('keys.revoked', { name: open.remove.label }));
      await again();
    }} />`}`;
}
