import { h, html, useState } from 'preact';
import { changeSensor, createSensor } from '../api.js';
import { t } from '../i18n.js';
import { Dialog } from '../parts/dialog.js';
import { Field, Form, textOf } from '../parts/form.js';
import { Icon } from '../parts/icons.js';
import { toast } from '../parts/notices.js';

/** @type {Record<'raw_days' | 'minute_days' | 'hour_days' | 'day_days', () => string>} */
const RETENTION = {
  raw_days: () => t('sensors.raw_days'),
  minute_days: () => t('sensors.minute_days'),
  hour_days: () => t('sensors.hour_days'),
  day_days: () => t('sensors.day_days'),
};
const PARTS = /** @type {(keyof typeof RETENTION)[]} */ (Object.keys(RETENTION));

/** @param {{ sensor?: import('../api.js').Sensor, onClose: () => void, onDone: () => void }} props */
export function SensorForm({ sensor, onClose, onDone }) {
  const [name, setName] = useState(sensor?.name ?? '');
  const [values, setValues] = useState(sensor?.values.map((value) => ({ name: value.name, unit: value.unit ?? '', label: value.label ?? '' })) ?? [{ name: '', unit: '', label: '' }]);
  const minutesOf = (/** @type {number | null | undefined} */ seconds) => (seconds === null || seconds === undefined ? '' : String(seconds / 60));
  const secondsOf = (/** @type {string} */ minutes) => (minutes === '' ? null : Math.round(Number(minutes) * 60));
  const [silent, setSilent] = useState(minutesOf(sensor?.silent_after_seconds));
  const [lateness, setLateness] = useState(minutesOf(sensor?.lateness_seconds));
  const [keep, setKeep] = useState(/** @type {Record<string, string> | null} */ (sensor?.retention ? Object.fromEntries(PARTS.map((part) => [part, String(sensor.retention?.[part] ?? '')])) : null));
  const put = (/** @type {number} */ at, /** @type {object} */ part) => setValues(values.map((value, i) => (i === at ? { ...value, ...part } : value)));
  const send = async () => {
    const retention = keep && Object.fromEntries(PARTS.map((part) => [part, keep[part] ? Number(keep[part]) : null]));
    const body = { silent_after_seconds: secondsOf(silent), lateness_seconds: secondsOf(lateness), retention, values: values.map((value) => ({ name: value.name.trim(), unit: value.unit.trim(), label: value.label.trim() || null })) };
    if (sensor) await changeSensor(sensor.name, body);
    else await createSensor({ name: name.trim(), ...body });
    toast(t('sensors.saved', { name: name.trim() }));
    onDone();
  };
  return h(Dialog, {
    title: sensor ? t('sensors.edit', { name: sensor.name }) : t('sensors.add'),
    onClose,
    test: 'sensor-dialog',
    children: h(Form, {
      send,
      action: sensor ? t('action.save') : t('sensors.add'),
      onCancel: onClose,
      test: 'sensor-save',
      errorTest: 'sensor-error',
      children: html`${h(Field, {
        label: t('devices.name'),
        hint: t('sensors.name-hint'),
        input: (id, note) => html`<input id=${id} aria-describedby=${note} required maxlength="64" disabled=${sensor !== undefined} spellcheck=${false} autocomplete="off" data-test="sensor-name" value=${name} onInput=${(/** @type {Event} */ event) => setName(textOf(event))} />`,
      })}
      <fieldset class="plain"><legend>${t('sensors.values')}</legend>
        ${values.map(
          (value, i) => html`<div class="line" key=${i}>
            <input aria-label=${t('sensors.value-name')} placeholder=${t('sensors.value-name')} required maxlength="64" data-test=${`sensor-value-${i}`} value=${value.name} onInput=${(/** @type {Event} */ event) => put(i, { name: textOf(event) })} />
            <input class="narrow" aria-label=${t('sensors.unit')} placeholder=${t('sensors.unit')} maxlength="16" value=${value.unit} onInput=${(/** @type {Event} */ event) => put(i, { unit: textOf(event) })} />
            <input aria-label=${t('devices.label')} placeholder=${t('devices.label')} maxlength="64" value=${value.label} onInput=${(/** @type {Event} */ event) => put(i, { label: textOf(event) })} />
            <button type="button" class="icon" disabled=${values.length === 1} aria-label=${t('action.delete')} onClick=${() => setValues(values.filter((_, at) => at !== i))}><${Icon} name="close" /></button>
          </div>`,
        )}
        <button type="button" class="quiet" onClick=${() => setValues([...values, { name: '', unit: '', label: '' }])}><${Icon} name="plus" />${t('sensors.add-value')}</button>
      </fieldset>
      ${h(Field, {
        label: t('sensors.silent'),
        hint: t('sensors.silent-hint'),
        input: (id, note) => html`<input id=${id} aria-describedby=${note} type="number" min="0" step="any" data-test="sensor-silent" value=${silent} onInput=${(/** @type {Event} */ event) => setSilent(textOf(event))} />`,
      })}
      ${h(Field, {
        label: t('sensors.lateness'),
        hint: t('sensors.lateness-hint'),
        input: (id, note) => html`<input id=${id} aria-describedby=${note} type="number" min="0" step="any" data-test="sensor-lateness" value=${lateness} onInput=${(/** @type {Event} */ event) => setLateness(textOf(event))} />`,
      })}
      <fieldset class="plain"><legend>${t('sensors.kept')}</legend>
        <label class="line"><input type="checkbox" data-test="sensor-roll-ups" checked=${keep !== null} onChange=${() => setKeep(keep ? null : {})} />${t('sensors.roll-ups')}</label>
        ${
          keep &&
          PARTS.map((part) =>
            h(Field, {
              key: part,
              label: RETENTION[part](),
              hint: part === 'raw_days' ? t('sensors.kept-hint') : undefined,
              input: (id, note) => html`<input id=${id} aria-describedby=${note} type="number" min="1" max="36500" data-test=${`sensor-${part}`} value=${keep[part] ?? ''} onInput=${(/** @type {Event} */ event) => setKeep({ ...keep, [part]: textOf(event) })} />`,
            }),
          )
        }
      </fieldset>`,
    }),
  });
}
