import { h, html, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Dialog } from '../parts/dialog.js';
import { Field, Form, textOf } from '../parts/form.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { complain, Failed } from '../parts/notices.js';

/** A line for each command: its name, then the names of its values. @param {string} text @returns {api.ActuatorCommand[]} */
const commandsOf = (text) =>
  text
    .split('\n')
    .map((line) => line.trim().split(/\s+/).filter(Boolean))
    .filter((words) => words.length > 0)
    .map(([name, ...values]) => ({ name, label: null, values: values.map((value) => ({ name: value, unit: '', min: null, max: null })) }));

export function Actuators() {
  const { data, error, again } = useLoad(() => api.all(api.actuators), []);
  const [open, setOpen] = useState(false);
  const close = () => setOpen(false);
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    <div class="above"><button type="button" class="primary" data-test="actuator-new" onClick=${() => setOpen(true)}><${Icon} name="plus" />${t('actuators.add')}</button></div>
    ${data?.length === 0 && html`<p class="faint">${t('actuators.none-text')}</p>`}
    <ul class="cards" data-test="actuators-list">
      ${data?.map(
        (actuator) => html`<li key=${actuator.name}>
          <div class="text">
            <h2>${actuator.name}</h2>
            <ul class="values">${actuator.commands.map((command) => html`<li><b>${command.name}</b> <span>${command.values.map((value) => value.name).join(', ')}</span></li>`)}</ul>
          </div>
          <div class="row"><button type="button" class="icon" aria-label=${t('actuators.delete', { name: actuator.name })} title=${t('action.delete')} onClick=${() => api.deleteActuator(actuator.name).then(again, complain)}><${Icon} name="trash" /></button></div>
        </li>`,
      )}
    </ul>
    ${open && h(ActuatorForm, { onClose: close, onDone: () => { close(); again(); } })}`;
}

/** @param {{ onClose: () => void, onDone: () => void }} props */
function ActuatorForm({ onClose, onDone }) {
  const [name, setName] = useState('');
  const [text, setText] = useState('');
  const send = async () => {
    await api.createActuator({ name: name.trim(), commands: commandsOf(text) });
    onDone();
  };
  return h(Dialog, {
    title: t('actuators.add'),
    onClose,
    test: 'actuator-dialog',
    children: h(Form, {
      send,
      action: t('actuators.add'),
      onCancel: onClose,
      test: 'actuator-save',
      errorTest: 'actuator-error',
      children: html`${h(Field, {
        label: t('devices.name'),
        input: (id) => html`<input id=${id} required maxlength="64" spellcheck=${false} autocomplete="off" data-test="actuator-name" value=${name} onInput=${(/** @type {Event} */ event) => setName(textOf(event))} />`,
      })}
      ${h(Field, {
        label: t('commands.title'),
        hint: t('actuators.commands-hint'),
        input: (id, note) => html`<textarea id=${id} class="mono" aria-describedby=${note} required rows="4" spellcheck=${false} data-test="actuator-commands" value=${text} onInput=${(/** @type {Event} */ event) => setText(textOf(event))}></textarea>`,
      })}`,
    }),
  });
}
