// One chart of a dashboard: which values of which devices it shows.
import { h, html, useState } from 'preact';
import * as api from '../api.js';
import { catalog, labelOf } from '../catalog.js';
import { t } from '../i18n.js';
import { Dialog } from '../parts/dialog.js';
import { checkedOf, Field, Form, textOf } from '../parts/form.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';

const LINES_MAX = 12;
/** @type {api.BoardLine} */
const EMPTY = { device: '', sensor: '', value: '', label: null, show: 'avg' };

/** @returns {Record<api.Show, string>} */
const shows = () => ({ avg: t('boards.avg'), min: t('boards.min'), max: t('boards.max'), last: t('boards.last') });

/** @param {{ chart: api.BoardChart | null, onClose: () => void, onDone: (chart: api.BoardChart) => void }} props */
export function ChartForm({ chart, onClose, onDone }) {
  const { data: devices } = useLoad(() => api.all(api.devices), []);
  const [title, setTitle] = useState(chart?.title ?? '');
  const [wide, setWide] = useState(chart?.is_wide ?? false);
  const [lines, setLines] = useState(chart?.lines ?? [EMPTY]);
  const change = (/** @type {number} */ i, /** @type {Partial<api.BoardLine>} */ next) => setLines(lines.map((line, at) => (at === i ? { ...line, ...next } : line)));
  const send = async () => {
    if (lines.some((line) => line.value === '')) throw new Error(t('boards.lacks-value'));
    onDone({ title: title.trim() || null, is_wide: wide, lines: lines.map((line) => ({ ...line, device: line.device.trim(), label: line.label?.trim() || null })) });
  };
  return h(Dialog, {
    title: chart ? t('boards.edit-this') : t('boards.add-chart'),
    onClose,
    wide: true,
    test: 'chart-dialog',
    children: h(Form, {
      send,
      action: t('boards.take'),
      onCancel: onClose,
      test: 'chart-take',
      errorTest: 'chart-error',
      children: html`
        ${h(Field, {
          label: t('boards.chart-title'),
          hint: t('boards.chart-title-hint'),
          input: (id, note) => html`<input id=${id} aria-describedby=${note} maxlength="128" autocomplete="off" data-test="chart-title" value=${title} onInput=${(/** @type {Event} */ event) => setTitle(textOf(event))} />`,
        })}
        <label class="check"><input type="checkbox" data-test="chart-wide" checked=${wide} onChange=${(/** @type {Event} */ event) => setWide(checkedOf(event))} /><span>${t('boards.wide')}</span></label>
        <datalist id="board-devices">${devices?.map((device) => html`<option value=${device.name}>${device.label ?? ''}</option>`)}</datalist>
        ${lines.map((line, i) => h(LineFields, { key: i, i, line, device: devices?.find((one) => one.name === line.device.trim()) ?? null, change: (next) => change(i, next), remove: lines.length > 1 ? () => setLines(lines.filter((_, at) => at !== i)) : null }))}
        ${lines.length < LINES_MAX && html`<button type="button" class="quiet" data-test="line-add" onClick=${() => setLines([...lines, { ...EMPTY, device: lines[lines.length - 1].device }])}><${Icon} name="plus" />${t('boards.add-line')}</button>`}
      `,
    }),
  });
}

/** @param {{ key: number, i: number, line: api.BoardLine, device: api.Device | null, change: (next: Partial<api.BoardLine>) => void, remove: (() => void) | null }} props */
function LineFields({ i, line, device, change, remove }) {
  // Of a device that is not known every value of every sensor type can be wanted.
  const sensors = catalog.value?.filter((sensor) => !device || device.sensors.length === 0 || device.sensors.includes(sensor.name)) ?? [];
  const pick = (/** @type {Event} */ event) => {
    const [sensor, value] = JSON.parse(textOf(event));
    change({ sensor, value });
  };
  const picked = line.value === '' ? '' : JSON.stringify([line.sensor, line.value]);
  const known = sensors.some((sensor) => sensor.name === line.sensor && sensor.values.some((value) => value.name === line.value));
  return html`<fieldset class="line" data-test=${`line-${i}`}>
    <legend class="hidden">${t('boards.line', { number: i + 1 })}</legend>
    <input list="board-devices" required aria-label=${t('boards.device')} placeholder=${t('boards.device')} autocomplete="off" spellcheck=${false} data-test=${`line-device-${i}`} value=${line.device} onInput=${(/** @type {Event} */ event) => change({ device: textOf(event) })} />
    <select required aria-label=${t('boards.value')} data-test=${`line-value-${i}`} value=${picked} onChange=${pick}>
      <option value="" disabled>${t('boards.value')}</option>
      ${!known && picked !== '' && html`<option value=${picked}>${line.sensor}: ${line.value}</option>`}
      ${sensors.flatMap((sensor) => sensor.values.map((value) => html`<option value=${JSON.stringify([sensor.name, value.name])}>${sensor.name}: ${labelOf(sensor.name, value.name)}</option>`))}
    </select>
    <select aria-label=${t('boards.show')} data-test=${`line-show-${i}`} value=${line.show} onChange=${(/** @type {Event} */ event) => change({ show: /** @type {api.Show} */ (textOf(event)) })}>
      ${Object.entries(shows()).map(([name, text]) => html`<option value=${name}>${text}</option>`)}
    </select>
    <input aria-label=${t('boards.label')} placeholder=${t('boards.label')} maxlength="128" autocomplete="off" data-test=${`line-label-${i}`} value=${line.label ?? ''} onInput=${(/** @type {Event} */ event) => change({ label: textOf(event) })} />
    ${remove && html`<button type="button" class="icon" aria-label=${t('boards.remove-line', { number: i + 1 })} title=${t('action.delete')} data-test=${`line-remove-${i}`} onClick=${remove}><${Icon} name="trash" /></button>`}
  </fieldset>`;
}
