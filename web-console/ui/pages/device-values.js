import { h, html, useState } from 'preact';
import { createDeviceKey } from '../api.js';
import { catalog, labelOf, numbersOf, unitOf } from '../catalog.js';
import { useHistory } from '../history.js';
import { t } from '../i18n.js';
import { beat, newestOf } from '../live.js';
import { Chart } from '../parts/chart.js';
import { measured, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { complain, Empty, Failed, Loading } from '../parts/notices.js';
import { Span } from '../parts/span.js';
import { KeyOnce } from './keys.js';

/** The newest values of a device, and one of them over time. @param {{ device: string }} props */
export function DeviceValues({ device }) {
  void beat.value;
  void catalog.value;
  const readings = [...newestOf(device).values()];
  const [picked, setPicked] = useState(/** @type {{ sensor: string, value: string } | null} */ (null));
  const [span, setSpan] = useState(/** @type {number | null} */ (168));
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

/** @param {{ device: string, sensor: string, value: string, span: number | null, setSpan: (span: number | null) => void }} props */
function Past({ device, sensor, value, span, setSpan }) {
  const { points, error } = useHistory([{ device, sensor, value }], span);
  const label = `${device} ${labelOf(sensor, value)}`;
  return html`<section class="past">
    <header><h3>${labelOf(sensor, value)}</h3>${h(Span, { hours: span, set: setSpan })}</header>
    ${error && html`<${Failed} error=${error} />`}
    ${!points && !error && html`<${Loading} />`}
    ${points && h(Chart, { points, lines: [{ label, unit: unitOf(sensor, value) }], label })}
  </section>`;
}
