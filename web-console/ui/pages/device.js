import { html, useEffect } from 'preact';
import * as api from '../api.js';
import { fetchCatalog } from '../catalog.js';
import { HealthMark, healthOf, reasonOf, useHealth } from '../health.js';
import { t } from '../i18n.js';
import { learn } from '../live.js';
import { Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { complain, Failed, Loading } from '../parts/notices.js';
import { route } from '../router.js';
import { AlertTable } from './alerts.js';
import { Commands, Twin } from './device-deeds.js';
import { DeviceValues } from './device-values.js';

export default function DevicePage() {
  const name = route.value.parts[1] ?? '';
  useEffect(() => void fetchCatalog().catch(complain), []);
  useHealth();
  const found = useLoad(async () => {
    const device = await api.device(name);
    learn([device]);
    return device;
  }, [name]);
  const device = found.data;
  if (!device) return html`<div class="page">${found.error ? html`<${Failed} error=${found.error} retry=${found.again} />` : html`<${Loading} />`}</div>`;
  const health = healthOf(device);
  return html`<div class="page" data-test="device-page">
    <header class="head">
      <a class="icon" href="#/devices" aria-label=${t('nav.devices')}><${Icon} name="back" /></a>
      <h1>${device.name}</h1>
      <${HealthMark} health=${health} test="device-health" />
      <p class="faint">${[device.label, device.group, ...(device.tags ?? [])].filter(Boolean).join(' · ')}</p>
    </header>
    ${health && html`<p class="small faint">${reasonOf(health)} · <${Time} at=${health.since} form="ago" /></p>`}
    <div class="columns">
      <section class="card panel flat"><${DeviceValues} key=${name} device=${name} /></section>
      <div class="stack">
        <${Alerts} device=${name} />
        <${Commands} device=${device} />
        <${Twin} device=${name} />
        <${History} device=${name} state=${health?.state} />
      </div>
    </div>
  </div>`;
}

/** @param {{ device: string }} props */
function Alerts({ device }) {
  const { data, error, again } = useLoad(() => api.alerts({ device, limit: 20 }), [device]);
  return html`<section class="card"><header><h2>${t('alerts.title')}</h2></header>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${data && data.items.length === 0 && html`<p class="faint pad">${t('alerts.none')}</p>`}
    ${data && data.items.length > 0 && html`<${AlertTable} items=${data.items} again=${again} brief=${true} />`}
  </section>`;
}

/** @param {{ device: string, state: string | undefined }} props */
function History({ device, state }) {
  const { data, error, again } = useLoad(() => api.deviceHealth(device, { limit: 20 }), [device, state]);
  return html`<section class="card"><header><h2>${t('health.history')}</h2></header>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${data && data.items.length === 0 && html`<p class="faint pad">${t('health.never-heard')}</p>`}
    <ul class="lines" data-test="health-history">${data?.items.map((entry) => html`<li key=${entry.time}><span><${HealthMark} health=${entry} /> <span class="faint small">${reasonOf(entry)}</span></span><span class="small"><${Time} at=${entry.time} /></span></li>`)}</ul>
  </section>`;
}
