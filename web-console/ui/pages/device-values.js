import { h, html, useState } from 'preact';
import { createDeviceKey } from '../api.js';
import { catalog, labelOf, numbersOf, unitOf } from '../catalog.js';
import { useHistory } from '../history.js';
import { t } from '../i18n.js';
import { beat, newestOf } from '../live.js';
import { Chart } from '../parts/chart.js';
import { textOf } from '../parts/form.js';
import { measured, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { complain, Empty, Failed, Loading } from '../parts/notices.js';
import { KeyOnce } from './keys.js';

/** @type {[string, number | null][]} */
const SPANS = [
  ['6', 6],
  ['24', 24],
  ['168', 168],
  ['720', 720],
  ['all', null],
];

/** The newest values of a device, and one of them over time. @param {{ device: string }} props */
export function DeviceValues({ device }) {
  void beat.value;
  void catalog.value;
  const readings = [...newestOf(device).values()];
  const [picked, setPicked] = useState(/** @type {{ sensor: string, value: string } | null} */ (null));
  const [span, setSpan] = useState('168');
  const first = readings[0] && numbersOf(readings[0].sensor, readings[0].values)[0];
  const current = picked ?? (first ? { sensor: readings[0].sensor, value: first[0] } : null);
  const [made, setMade] = useState(/** @type {import('../api.js').NewKey | null} */ (null));
  const makeKey = () => createDeviceKey(device).then(setMade, complain);
  return html`
    ${readings.length === 0 && html`<${Empty} title=${t('devices.silent')} text=${t('devices.silent-text')}><button type="button" data-test="device-key" onClick=${makeKey}><${Icon} name="key" />${t('keys.make')}</button><//>`}
    ${readings.map(
      (reading) => html`<section key=${reading.sensor}>
        <h3 class="small"><span>${reading.sensor}</span> <span class="faint"><${Time} at=${reading.time} /></span></h3>
        <div class="tiles" role="group" aria-label=${t('map.values')}>
          ${numbersOf(reading.sensor, reading.values).map(
            ([name, value]) => html`<button type="button" aria-pressed=${current?.sensor === reading.sensor && current?.value === name} data-test=${`value-${name}`} onClick=${() => setPicked({ sensor: reading.sensor, value: name })}>
              <span>${labelOf(reading.sensor, name)}</span><b>${measured(value, unitOf(reading.sensor, name))}</b>
            </button>`,
          )}
        </div>
      </section>`,
    )}
    ${current && html`<${Past} device=${device} sensor=${current.sensor} value=${current.value} span=${span} setSpan=${setSpan} />`}
    ${made && html`<${KeyOnce} made=${made} device=${device} onClose=${() => setMade(null)} />`}
    ${current && html`<footer>
      <a class="button" href=${`#/rules/new?sensor=${encodeURIComponent(current.sensor)}&value=${encodeURIComponent(current.value)}&device=${encodeURIComponent(device)}`}><${Icon} name="rules" />${t('map.make-rule')}</a>
    </footer>`}`;
}

/** @param {{ device: string, sensor: string, value: string, span: string, setSpan: (span: string) => void }} props */
function Past({ device, sensor, value, span, setSpan }) {
  const hours = SPANS.find(([name]) => name === span)?.[1] ?? null;
  const { points, error } = useHistory(device, sensor, value, hours);
  /** @type {Record<string, string>} */
  const texts = { 6: t('span.6'), 24: t('span.24'), 168: t('span.168'), 720: t('span.720'), all: t('span.all') };
  return html`<section class="past">
    <header>
      <h3>${labelOf(sensor, value)}</h3>
      <label class="inline"><span class="hidden">${t('span.title')}</span>
        <select data-test="chart-span" value=${span} onChange=${(/** @type {Event} */ event) => setSpan(textOf(event))}>
          ${SPANS.map(([name]) => html`<option value=${name}>${texts[name]}</option>`)}
        </select>
      </label>
    </header>
    ${error && html`<${Failed} error=${error} />`}
    ${!points && !error && html`<${Loading} />`}
    ${points && h(Chart, { points, unit: unitOf(sensor, value), label: `${device} ${labelOf(sensor, value)}` })}
  </section>`;
}
