// Signs in on the server's own origin and hands a token for one site to the page that opened the window.
const place = document.querySelector('main').dataset;
const ko = /^ko/.test(navigator.language);
const words = {
  title: ['Sign in to comment', '로그인하고 댓글 쓰기'],
  email: ['E-mail', '이메일'],
  password: ['Password', '비밀번호'],
  in: ['Sign in', '로그인'],
  other: ['Another way to sign in, or a new account', '다른 방법으로 로그인하거나 가입하기'],
  code: ['Code of your second factor', '2단계 인증 코드'],
  name: ['The name that your comments show', '댓글에 보일 이름'],
  go: ['Go on', '계속'],
  failed: ['It did not work.', '실패했습니다.'],
};
const word = (key) => words[key][+ko];
const at = (id) => document.getElementById(id);
document.documentElement.lang = ko ? 'ko' : 'en';
at('title').textContent = word('title');
for (const one of document.querySelectorAll('[data-word]')) one.textContent = word(one.dataset.word);

const show = (id) => {
  for (const form of document.forms) form.hidden = form.id !== id;
  at(id).querySelector('input').focus();
};

const ask = async (method, path, body) => {
  const reply = await fetch(path, { method, headers: body ? { 'content-type': 'application/json' } : {}, body: body && JSON.stringify(body) });
  const said = await reply.json().catch(() => ({}));
  if (!reply.ok) throw Object.assign(new Error(said.detail || word('failed')), { status: reply.status });
  return said;
};

const on = (id, send) =>
  at(id).addEventListener('submit', async (event) => {
    event.preventDefault();
    at('error').textContent = '';
    try {
      await send(Object.fromEntries(new FormData(at(id))));
    } catch (problem) {
      at('error').textContent = problem.message;
    }
  });

const look = async () => {
  try {
    const { email } = await ask('GET', '../v1/session');
    at('name').elements.name.value ||= (email || '').split('@')[0];
    show('name');
  } catch {
    show('session');
  }
};

let challenge;
on('session', async (given) => {
  const { second_factor } = await ask('POST', '../v1/session', given);
  if (!second_factor) return look();
  challenge = second_factor.challenge;
  show('second');
});
on('second', async ({ code }) => {
  await ask('POST', '../v1/session/second', { challenge, code });
  await look();
});
on('name', async ({ name }) => {
  const made = await ask('POST', `${place.site}/tokens`, { name });
  // Only a page of an origin that the server let in hears it.
  opener?.postMessage({ madang: place.site, ...made }, place.origin);
  close();
});

// Signed in meanwhile in another window: by a provider, with a passkey.
addEventListener('focus', () => at('session').hidden || look());
look();
