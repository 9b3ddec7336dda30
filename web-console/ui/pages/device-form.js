import { h, html, useState } from 'preact';
import { changeDevice, createDevice } from '../api.js';
import { catalog } from '../catalog.js';
import { t } from '../i18n.js';
import { Dialog } from '../parts/dialog.js';
import { checkedOf, Field, Form, optionalNumber, textOf } from '../parts/form.js';
import { toast } from '../parts/notices.js';
import { Carried } from './device-deeds.js';

/**
 * @param {{ device?: import('../api.js').Device, at?: { latitude: number, longitude: number }, onClose: () => void, onDone: (name: string) => void }} props
 */
export function DeviceForm({ device, at, onClose, onDone }) {
  const [name, setName] = useState(device?.name ?? '');
  const [label, setLabel] = useState(device?.label ?? '');
  const [latitude, setLatitude] = useState(String(device?.latitude ?? at?.latitude ?? ''));
  const [longitude, setLongitude] = useState(String(device?.longitude ?? at?.longitude ?? ''));
  const [tags, setTags] = useState((device?.tags ?? []).join(', '));
  const [group, setGroup] = useState(device?.group ?? '');
  const [sensors, setSensors] = useState(/** @type {string[]} */ (device?.sensors ?? []));
  const [actuators, setActuators] = useState(/** @type {string[]} */ (device?.actuators ?? []));
  const known = [...new Set([...(catalog.value ?? []).map((one) => one.name), ...sensors])];
  const send = async () => {
    const body = { label: label.trim() || null, latitude: optionalNumber(latitude), longitude: optionalNumber(longitude), sensors, actuators, tags: tags.split(',').map((tag) => tag.trim()).filter(Boolean), group: group.trim() || null };
    if ((body.latitude === null) !== (body.longitude === null)) throw new Error(t('devices.half-place'));
    if (device) await changeDevice(device.name, body);
    else await createDevice({ name: name.trim(), ...body });
    toast(t('devices.saved', { name: name.trim() }));
    onDone(name.trim());
  };
  const toggle = (/** @type {string} */ sensor, /** @type {boolean} */ on) => setSensors(on ? [...sensors, sensor] : sensors.filter((one) => one !== sensor));
  return h(Dialog, {
    title: device ? t('devices.edit', { name: device.name }) : t('devices.add'),
    onClose,
    test: 'device-dialog',
    children: h(Form, {
      send,
      action: device ? t('action.save') : t('devices.add'),
      onCancel: onClose,
      test: 'device-save',
      errorTest: 'device-error',
      children: html`${h(Field, {
        label: t('devices.name'),
        hint: t('devices.name-hint', { topic: `data/${name || '…'}` }),
        input: (id, note) => html`<input id=${id} aria-describedby=${note} required maxlength="64" disabled=${device !== undefined} autocomplete="off" spellcheck=${false} data-test="device-name" value=${name} onInput=${(/** @type {Event} */ event) => setName(textOf(event))} />`,
      })}
      ${h(Field, {
        label: t('devices.label'),
        input: (id) => html`<input id=${id} maxlength="120" data-test="device-label" value=${label} onInput=${(/** @type {Event} */ event) => setLabel(textOf(event))} />`,
      })}
      <div class="pair">
        ${h(Field, {
          label: t('devices.latitude'),
          input: (id) => html`<input id=${id} type="number" step="any" min="-90" max="90" data-test="device-latitude" value=${latitude} onInput=${(/** @type {Event} */ event) => setLatitude(textOf(event))} />`,
        })}
        ${h(Field, {
          label: t('devices.longitude'),
          input: (id) => html`<input id=${id} type="number" step="any" min="-180" max="180" data-test="device-longitude" value=${longitude} onInput=${(/** @type {Event} */ event) => setLongitude(textOf(event))} />`,
        })}
      </div>
      <p class="hint">${t('devices.place-hint')}</p>
      <div class="pair">
        ${h(Field, {
          label: t('devices.tags'),
          hint: t('devices.tags-hint'),
          input: (id, note) => html`<input id=${id} aria-describedby=${note} data-test="device-tags" value=${tags} onInput=${(/** @type {Event} */ event) => setTags(textOf(event))} />`,
        })}
        ${h(Field, {
          label: t('devices.group'),
          input: (id) => html`<input id=${id} maxlength="120" data-test="device-group" value=${group} onInput=${(/** @type {Event} */ event) => setGroup(textOf(event))} />`,
        })}
      </div>
      ${known.length > 0 &&
      html`<fieldset class="plain"><legend>${t('sensors.title')}</legend>
        <div class="checks">${known.map((sensor) => html`<label class="check"><input type="checkbox" data-test=${`device-sensor-${sensor}`} checked=${sensors.includes(sensor)} onChange=${(/** @type {Event} */ event) => toggle(sensor, checkedOf(event))} />${sensor}</label>`)}</div>
      </fieldset>`}
      ${h(Carried, { carried: actuators, change: setActuators })}`,
    }),
  });
}
