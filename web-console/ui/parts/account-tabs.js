import { html } from 'preact';
import { t } from '../i18n.js';
import { Tabs } from './tabs.js';

export function AccountTabs() {
  const tabs = [
    { path: '/account', text: t('account.security'), test: 'tab-account' },
    { path: '/tools', text: t('tools.title'), test: 'tab-tools' },
    { path: '/audit', text: t('audit.title'), test: 'tab-audit' },
  ];
  return html`<${Tabs} label=${t('account.title')} tabs=${tabs} />`;
}
