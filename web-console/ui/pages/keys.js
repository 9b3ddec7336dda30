import { h, html, useState } from 'preact';
import { createKey, overview } from '../api.js';
import { t } from '../i18n.js';
import { Dialog } from '../parts/dialog.js';
import { Copyable, Field, Form, textOf } from '../parts/form.js';
import { blank, Grants } from '../parts/grants.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';

/** @typedef {import('../api.js').Grant} Grant */

/** @type {Record<string, Grant[]>} */
const RIGHTS = {
  publish: [{ action: 'mqtt.publish', resource: 'mqtt/data/*' }],
  fleet: [
    { action: 'devices.provision', resource: 'device/*' },
    { action: 'readings.publish', resource: 'device/*' },
    ...['data', 'answer', 'reported'].map((topic) => ({ action: 'mqtt.publish', resource: `mqtt/${topic}/*` })),
    ...['command', 'desired'].map((topic) => ({ action: 'mqtt.subscribe', resource: `mqtt/${topic}/*` })),
  ],
  everything: [{ action: '*', resource: '*' }],
};

/** @param {{ onClose: () => void, onMade: (key: import('../api.js').NewKey) => void }} props */
export function KeyForm({ onClose, onMade }) {
  const [label, setLabel] = useState('');
  const [rights, setRights] = useState('publish');
  const [own, setOwn] = useState([blank()]);
  const send = async () => onMade(await createKey({ label: label.trim(), grants: RIGHTS[rights] ?? own }));
  const choices = [
    ['publish', t('keys.publish')],
    ['fleet', t('keys.fleet')],
    ['everything', t('keys.everything')],
    ['own', t('keys.own')],
  ];
  return h(Dialog, {
    title: t('keys.make'),
    onClose,
    test: 'key-dialog',
    children: h(Form, {
      send,
      action: t('keys.make'),
      onCancel: onClose,
      test: 'key-save',
      errorTest: 'key-error',
      children: html`${h(Field, {
        label: t('keys.label'),
        hint: t('keys.label-hint'),
        input: (id, note) => html`<input id=${id} aria-describedby=${note} required maxlength="120" data-test="key-label" value=${label} onInput=${(/** @type {Event} */ event) => setLabel(textOf(event))} />`,
      })}
      <fieldset class="plain"><legend>${t('keys.grants')}</legend>
        <div class="checks column">${choices.map(([name, text]) => html`<label class="check"><input type="radio" name="rights" value=${name} checked=${rights === name} data-test=${`key-rights-${name}`} onChange=${() => setRights(name)} />${text}</label>`)}</div>
      </fieldset>
      ${rights === 'own' && h(Grants, { grants: own, set: setOwn, least: 1 })}`,
    }),
  });
}

/**
 * The secret, once, with a line that works at once.
 * @param {{ made: import('../api.js').NewKey, device?: string, onClose: () => void }} props
 */
export function KeyOnce({ made, device, onClose }) {
  const { data } = useLoad(overview, []);
  const [host, port] = doorOf(data?.mqtt);
  const topic = device ?? 'my-device';
  const reading = `{"sensor":"weather","time":"'$(date -u +%Y-%m-%dT%H:%M:%SZ)'","values":{"temp":39.0}}`;
  const command = `mosquitto_pub -h ${host} -p ${port} -q 1 \\\n  -u ${made.mqtt_user} \\\n  -P '${made.mqtt_password}' \\\n  -t data/${topic} \\\n  -m '${reading}'`;
  const curl = `curl -H 'Authorization: Bearer ${made.token}' \\\n  ${location.origin}/v1/devices`;
  return html`<${Dialog} title=${t('keys.made', { name: made.label })} onClose=${onClose} wide test="key-once">
    <div class="notice warn"><${Icon} name="key" /><p>${t('keys.once')}</p></div>
    <${Copyable} label=${t('keys.try')} text=${command} test="key-command" />
    <${Copyable} label=${t('keys.user')} text=${made.mqtt_user} test="key-user" />
    <${Copyable} label=${t('keys.password')} text=${made.mqtt_password} test="key-password" />
    <${Copyable} label=${t('keys.token')} text=${made.token} test="key-token" />
    ${!device && html`<${Copyable} label=${t('keys.try-http')} text=${curl} />`}
    <footer><button type="button" class="primary" onClick=${onClose} data-test="key-done">${t('keys.kept')}</button></footer>
  <//>`;
}

/** Where devices reach the server: the door that it names, on the host that this page came from. @param {string | null | undefined} door */
function doorOf(door) {
  const port = door?.split(':').pop() || '1883';
  return [location.hostname, port];
}
