import { h, html, useEffect, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { checkedOf, Field, Form, textOf } from '../parts/form.js';
import { Time } from '../parts/format.js';
import { useLoad } from '../parts/load.js';
import { complain, Failed } from '../parts/notices.js';

/** @param {{ device: api.Device }} props */
export function Commands({ device }) {
  const { data, error, again } = useLoad(() => api.commands(device.name, { limit: 20 }), [device.name]);
  const actuators = useLoad(() => api.all(api.actuators), []);
  const own = (actuators.data ?? []).filter((one) => device.actuators?.includes(one.name));
  const isOpen = data?.items.some((one) => one.ended === null) ?? false;
  useEffect(() => {
    if (!isOpen) return;
    const timer = setInterval(again, 2000);
    return () => clearInterval(timer);
  }, [isOpen, again]);
  const cancel = (/** @type {string} */ id) => api.cancelCommand(id).then(again, complain);
  return html`<section class="card" data-test="device-commands"><header><h2>${t('commands.title')}</h2></header>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${own.length > 0 && html`<div class="pad">${h(Send, { device: device.name, actuators: own, again })}</div>`}
    <ul class="lines" data-test="commands-list">${data?.items.map(
      (one) => html`<li key=${one.id} data-state=${one.state}>
        <span><span class=${`badge ${one.state}`}>${stateText(one.state)}</span> <b>${one.actuator} ${one.command}</b> ${Object.entries(one.values).map(([name, value]) => `${name} ${value}`).join(', ')}
          <span class="faint small block">${[one.author, one.reason].filter(Boolean).join(' · ')}</span></span>
        <span class="small"><${Time} at=${one.ended ?? one.sent ?? one.created} form="ago" /> ${one.ended === null && html`<button type="button" data-test="command-cancel" onClick=${() => cancel(one.id)}>${t('action.cancel')}</button>`}</span>
      </li>`,
    )}</ul>
  </section>`;
}

/** @param {api.CommandState} state */
export function stateText(state) {
  return { waiting: t('commands.waiting'), sent: t('commands.sent'), acknowledged: t('commands.acknowledged'), refused: t('commands.refused'), 'timed-out': t('commands.timed-out'), cancelled: t('commands.cancelled') }[state];
}

/**
 * @typedef {{ actuator: string, command: string, values: Record<string, number> }} Picked
 * @param {{ actuators: api.Actuator[], picked: Picked | null, change: (picked: Picked | null) => void, none?: string, test: string }} props
 */
export function CommandPick({ actuators, picked, change, none, test }) {
  const all = actuators.flatMap((actuator) => actuator.commands.map((command) => ({ actuator: actuator.name, command })));
  const at = all.findIndex((one) => one.actuator === picked?.actuator && one.command.name === picked.command);
  const put = (/** @type {number} */ index, /** @type {Record<string, number>} */ values) => change(all[index] ? { actuator: all[index].actuator, command: all[index].command.name, values } : null);
  return html`${h(Field, {
      label: t('commands.title'),
      input: (id) => html`<select id=${id} required=${!none} data-test=${test} value=${at} onChange=${(/** @type {Event} */ event) => put(Number(textOf(event)), {})}>
        <option value="-1">${none ?? '…'}</option>
        ${all.map((one, i) => html`<option value=${i}>${one.actuator} · ${one.command.label ?? one.command.name}</option>`)}
      </select>`,
    })}
    ${all[at]?.command.values.map(({ name, unit, min, max }) =>
      h(Field, {
        label: unit ? `${name} (${unit})` : name,
        input: (id) => html`<input id=${id} type="number" step="any" required min=${min} max=${max} data-test=${`${test}-${name}`} value=${picked?.values[name] ?? ''} onInput=${(/** @type {Event} */ event) => put(at, { ...picked?.values, [name]: Number(textOf(event)) })} />`,
      }),
    )}`;
}

/** @param {{ device: string, actuators: api.Actuator[], again: () => Promise<void> }} props */
function Send({ device, actuators, again }) {
  const [picked, setPicked] = useState(/** @type {Picked | null} */ (null));
  const send = async () => {
    if (!picked) return;
    const { actuator, ...step } = picked;
    await api.sendCommands(device, { actuator, steps: [step] });
    await again();
  };
  return h(Form, { send, action: t('commands.send'), test: 'command-send', errorTest: 'command-error', children: h(CommandPick, { actuators, picked, change: setPicked, test: 'command-pick' }) });
}

/** @param {{ device: string }} props */
export function Twin({ device }) {
  const { data, error, again } = useLoad(() => api.twin(device), [device]);
  return html`<section class="card" data-test="device-twin"><header><h2>${t('twin.title')}</h2></header>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${data &&
    html`<div class="pad">
      ${Object.entries({ desired: t('twin.desired'), reported: t('twin.reported') }).map(([side, text]) => {
        const { state, version, time } = data[/** @type {'desired' | 'reported'} */ (side)];
        return html`<h3 class="small">${text} <span class="faint">${version > 0 && html`${t('alerts.version', { version })} · <${Time} at=${time} form="ago" />`}</span></h3>
          <pre tabindex="0" aria-label=${text} data-test=${`twin-${side}`}><code>${JSON.stringify(state, null, 2)}</code></pre>`;
      })}
    </div>`}
  </section>`;
}

/** @param {{ carried: string[], change: (actuators: string[]) => void }} props */
export function Carried({ carried, change }) {
  const { data } = useLoad(() => api.all(api.actuators), []);
  const known = [...new Set([...(data ?? []).map((one) => one.name), ...carried])];
  if (known.length === 0) return null;
  return html`<fieldset class="plain"><legend>${t('actuators.title')}</legend>
    <div class="checks">${known.map((name) => html`<label class="check"><input type="checkbox" data-test=${`device-actuator-${name}`} checked=${carried.includes(name)} onChange=${(/** @type {Event} */ event) => change(checkedOf(event) ? [...carried, name] : carried.filter((one) => one !== name))} />${name}</label>`)}</div>
  </fieldset>`;
}
