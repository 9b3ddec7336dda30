// The HTTP API: one function per operation, in the server's own shapes, which `../api.d.ts` names.

/** What the server refused, in its own words (RFC 9457). */
export class Problem extends Error {
  /**
   * @param {number} status 0 when no answer came.
   * @param {{ title?: string, detail?: string, type?: string, errors?: { pointer: string, detail: string }[] }} body
   */
  constructor(status, body) {
    super([body.detail || body.title || `HTTP ${status}`, ...(body.errors ?? []).map((error) => error.detail)].join(': '));
    this.name = 'Problem';
    this.status = status;
    this.title = body.title ?? '';
    this.type = body.type ?? '';
  }
}

/** @type {() => void} */
let whenSignedOut = () => {};

/**
 * Called whenever the server no longer knows the session.
 * @param {() => void} handler
 */
export function onSignedOut(handler) {
  whenSignedOut = handler;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{ body?: unknown, accept?: string, signal?: AbortSignal, open?: boolean }} [options] `open`: a 401 is the caller's to show.
 */
async function send(method, path, { body, accept = 'application/json', signal, open = false } = {}) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      credentials: 'same-origin',
      headers: { Accept: accept, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, {});
  }
  if (response.ok) return response;
  if (response.status === 401 && !open) whenSignedOut();
  throw new Problem(response.status, await problemOf(response));
}

/** @param {Response} response */
async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: response.statusText };
  }
}

/** @param {string} method @param {string} path @param {Parameters<typeof send>[2]} [options] */
const json = async (method, path, options) => (await send(method, path, options)).json();

/** @param {string} method @param {string} path @param {Parameters<typeof send>[2]} [options] @returns {Promise<void>} */
const nothing = async (method, path, options) => void (await send(method, path, options));

/** @param {string} path @param {Record<string, string | number | null | undefined>} [query] */
function address(path, query = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null) search.set(name, String(value));
  }
  return search.size > 0 ? `${path}?${search}` : path;
}

/** @param {string} name */
const part = (name) => encodeURIComponent(name);

/** @param {PageRequest} [page] */
const paged = ({ limit = 100, after = null } = {}) => ({ limit, after });

/**
 * Follows the cursors of a list, up to `most` items.
 * @template T
 * @param {(page: PageRequest) => Promise<Page<T>>} list
 * @param {number} [most]
 * @returns {Promise<T[]>}
 */
export async function all(list, most = 2000) {
  /** @type {T[]} */
  const items = [];
  /** @type {string | null} */
  let after = null;
  do {
    /** @type {Page<T>} */
    const page = await list({ limit: 100, after });
    items.push(...page.items);
    after = page.next;
  } while (after && items.length < most);
  return items;
}

// Session and account.

/** @returns {Promise<Session>} */
export const session = () => json('GET', '/v1/session', { open: true });
/** @param {string} email @param {string} password @returns {Promise<SignedIn>} */
export const signIn = (email, password) => json('POST', '/v1/session', { body: { email, password }, open: true });
/** @param {string} challenge @param {string} code */
export const secondFactor = (challenge, code) => nothing('POST', '/v1/session/second', { body: { challenge, code }, open: true });
/** @param {string} token @returns {Promise<SignedIn>} */
export const redeemLink = (token) => json('POST', '/v1/session/link', { body: { token }, open: true });
/** @param {string} email */
export const mailLink = (email) => nothing('POST', '/v1/session/links', { body: { email }, open: true });
/** @param {string} email */
export const mailReset = (email) => nothing('POST', '/v1/password-resets', { body: { email }, open: true });
/** @param {string} token @param {string} password */
export const finishReset = (token, password) => nothing('POST', '/v1/password-resets/finish', { body: { token, password }, open: true });
/** @param {string} token @param {string} [password] */
export const verifyEmail = (token, password) => nothing('POST', '/v1/account/verification', { body: { token, password }, open: true });
/** @param {string} token @param {string} password @returns {Promise<SignedIn>} */
export const acceptInvitation = (token, password) => json('POST', '/v1/invitations/accept', { body: { token, password }, open: true });
export const signOut = () => nothing('DELETE', '/v1/session');
/** @param {{ email: string, password: string, organisation?: string }} body */
export const signUp = (body) => nothing('POST', '/v1/accounts', { body, open: true });
/** @param {string} password @param {string} [current] */
export const setPassword = (password, current) => nothing('PUT', '/v1/account/password', { body: { password, current } });
export const mailVerification = () => nothing('POST', '/v1/account/verification-mail');
/** @returns {Promise<Page<OwnSession>>} */
export const sessions = () => json('GET', '/v1/account/sessions');
/** @param {string} id */
export const endSession = (id) => nothing('DELETE', `/v1/account/sessions/${part(id)}`);
export const endOtherSessions = () => nothing('DELETE', '/v1/account/sessions');
/** @param {string} [password] @returns {Promise<{ secret: string, uri: string }>} */
export const beginTotp = (password) => json('POST', '/v1/account/totp', { body: { password } });
/** @param {string} code @returns {Promise<{ recovery_codes: string[] }>} */
export const confirmTotp = (code) => json('POST', '/v1/account/totp/confirm', { body: { code } });
/** @param {string} code */
export const endTotp = (code) => nothing('POST', '/v1/account/totp/end', { body: { code } });

// Passkeys, in the JSON forms of Web Authentication.

/** @returns {Promise<Page<Passkey>>} */
export const passkeys = () => json('GET', '/v1/account/passkeys');
/** @param {string} id */
export const removePasskey = (id) => nothing('DELETE', `/v1/account/passkeys/${part(id)}`);
/** @param {string} name @param {string} [password] */
export async function addPasskey(name, password) {
  const options = await json('POST', '/v1/account/passkeys/options', { body: { password } });
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
  const made = /** @type {PublicKeyCredential} */ (await navigator.credentials.create({ publicKey }));
  await nothing('POST', '/v1/account/passkeys', { body: { name, credential: made.toJSON() } });
}
export async function signInByPasskey() {
  const options = await json('POST', '/v1/session/passkey/options', { open: true });
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
  const shown = /** @type {PublicKeyCredential} */ (await navigator.credentials.get({ publicKey }));
  await nothing('POST', '/v1/session/passkey', { body: { credential: shown.toJSON() }, open: true });
}
export const knowsPasskeys = () => 'PublicKeyCredential' in window && 'parseCreationOptionsFromJSON' in PublicKeyCredential;

// Log-in by others.

/** @returns {Promise<Page<{ name: string }>>} */
export const providers = () => json('GET', '/v1/session/providers', { open: true });
/** @param {string} name @returns {Promise<{ url: string }>} */
export const beginProvider = (name) => json('POST', `/v1/session/providers/${part(name)}`, { open: true });
/** @returns {Promise<Page<{ provider: string, created: string }>>} */
export const links = () => json('GET', '/v1/account/providers');
/** @param {string} name @param {string} [password] @returns {Promise<{ url: string }>} */
export const linkProvider = (name, password) => json('POST', `/v1/account/providers/${part(name)}`, { body: { password } });
/** @param {string} name */
export const unlinkProvider = (name) => nothing('DELETE', `/v1/account/providers/${part(name)}`);

// Tools that let people in by this server.

/** @param {PageRequest} [page] @returns {Promise<Page<Tool>>} */
export const tools = (page) => json('GET', address('/v1/oidc/tools', paged(page)));
/** @param {{ name: string, redirect_uris: string[], logout_uris: string[], has_secret: boolean, id_token_signed_response_alg?: string }} body @returns {Promise<ToolMade>} */
export const createTool = (body) => json('POST', '/v1/oidc/tools', { body });
/** @param {string} id */
export const deleteTool = (id) => nothing('DELETE', `/v1/oidc/tools/${part(id)}`);

/** @returns {Promise<Page<{ id: string, name: string, scope: string, since: string }>>} */
export const givenTools = () => json('GET', '/v1/account/tools');
/** @param {string} id */
export const leaveTool = (id) => nothing('DELETE', `/v1/account/tools/${part(id)}`);

// People and groups.

/** @param {{ email?: string, state?: string }} filter @param {PageRequest} [page] @returns {Promise<Page<Person>>} */
export const people = (filter, page) => json('GET', address('/v1/people', { ...filter, ...paged(page) }));
/** @param {string} id @param {{ role?: string, state?: Person['state'] }} body @returns {Promise<Person>} */
export const changePerson = (id, body) => json('PATCH', `/v1/people/${part(id)}`, { body });
/** @param {string} id @param {'keep' | 'erase'} texts */
export const removePerson = (id, texts) => nothing('DELETE', address(`/v1/people/${part(id)}`, { texts }));
/** @param {string} id */
export const personExport = (id) => `/v1/people/${part(id)}/export`;
/** @param {string | undefined} password @param {'keep' | 'erase'} texts */
export const removeAccount = (password, texts) => nothing('POST', '/v1/account/removal', { body: { password, texts } });
/** @param {PageRequest} [page] @returns {Promise<Page<Group>>} */
export const groups = (page) => json('GET', address('/v1/groups', paged(page)));
/** @param {{ name: string, grants: Grant[] }} body @returns {Promise<Group>} */
export const createGroup = (body) => json('POST', '/v1/groups', { body });
/** @param {string} id @param {{ name?: string, grants?: Grant[] }} body @returns {Promise<Group>} */
export const changeGroup = (id, body) => json('PATCH', `/v1/groups/${part(id)}`, { body });
/** @param {string} id */
export const deleteGroup = (id) => nothing('DELETE', `/v1/groups/${part(id)}`);
/** @param {string} id @param {PageRequest} [page] @returns {Promise<Page<Person>>} */
export const members = (id, page) => json('GET', address(`/v1/groups/${part(id)}/members`, paged(page)));
/** @param {string} id @param {string} person */
export const putMember = (id, person) => nothing('PUT', `/v1/groups/${part(id)}/members/${part(person)}`);
/** @param {string} id @param {string} person */
export const removeMember = (id, person) => nothing('DELETE', `/v1/groups/${part(id)}/members/${part(person)}`);

// Invitations and the audit log.

/** @param {PageRequest} [page] @returns {Promise<Page<Invitation>>} */
export const invitations = (page) => json('GET', address('/v1/invitations', paged(page)));
/** @param {string} email @param {string} role @returns {Promise<{ invitation: Invitation, token: string | null }>} */
export const invite = (email, role) => json('POST', '/v1/invitations', { body: { email, role } });
/** @param {string} id */
export const withdrawInvitation = (id) => nothing('DELETE', `/v1/invitations/${part(id)}`);
/** @param {AuditFilter} filter @param {PageRequest} [page] @returns {Promise<Page<AuditEntry>>} */
export const audit = (filter, page) => json('GET', address('/v1/audit', { ...filter, ...paged(page) }));
/** @param {AuditFilter} filter */
export const auditCsv = (filter) => address('/v1/audit.csv', filter);

// Keys.

/** @param {PageRequest} [page] @returns {Promise<Page<ApiKey>>} */
export const keys = (page) => json('GET', address('/v1/keys', paged(page)));
/** @param {{ label: string, grants: Grant[] }} body @returns {Promise<NewKey>} */
export const createKey = (body) => json('POST', '/v1/keys', { body });
/** @param {string} id */
export const deleteKey = (id) => nothing('DELETE', `/v1/keys/${part(id)}`);

// Sockets.

/** @param {PageRequest} [page] @returns {Promise<Page<Connection>>} */
export const connections = (page) => json('GET', address('/v1/sockets/connections', paged(page)));
/** @param {string} id */
export const closeConnection = (id) => nothing('DELETE', `/v1/sockets/connections/${part(id)}`);
/** @param {PageRequest} [page] @returns {Promise<Page<Topic>>} */
export const topics = (page) => json('GET', address('/v1/sockets/topics', paged(page)));
/** @param {PageRequest} [page] @returns {Promise<Page<Queue>>} */
export const queues = (page) => json('GET', address('/v1/sockets/queues', paged(page)));
/** @param {PageRequest} [page] @returns {Promise<Page<MqttSession>>} */
export const mqttSessions = (page) => json('GET', address('/v1/mqtt/sessions', paged(page)));

// Keys of Redis clients.

/** @param {number} db @returns {Promise<Kv>} */
export const kv = (db) => json('GET', address('/v1/kv', { db }));
/** @param {PageRequest & { db: number, prefix: string }} query @returns {Promise<Page<KvKey>>} */
export const kvKeys = ({ db, prefix, ...page }) => json('GET', address('/v1/kv/keys', { db, prefix, ...paged(page) }));
/** @param {string} id @param {number} db @returns {Promise<KvValue>} */
export const kvKey = (id, db) => json('GET', address(`/v1/kv/keys/${part(id)}`, { db }));
/** @returns {Promise<{ items: KvSlow[] }>} */
export const kvSlow = () => json('GET', '/v1/kv/slow');

// Dashboards.

/** @param {PageRequest} [page] @returns {Promise<Page<Board>>} */
export const boards = (page) => json('GET', address('/v1/dashboards', paged(page)));
/** @param {string} name @returns {Promise<Board>} */
export const board = (name) => json('GET', `/v1/dashboards/${part(name)}`);
/** @param {string} name @param {BoardDocument} document @param {number} version the one that is changed; 0: there is none yet @returns {Promise<Board>} */
export const writeBoard = (name, document, version) => json('PUT', `/v1/dashboards/${part(name)}`, { body: { document, version } });
/** @param {string} name */
export const deleteBoard = (name) => nothing('DELETE', `/v1/dashboards/${part(name)}`);
/** @param {{ csv: string, device?: string, sensor?: string, zone: string }} body @returns {Promise<{ accepted: number, empty: number, refused: number, reasons: { index: number, reason: string }[] }>} */
export const importReadings = (body) => json('POST', '/v1/readings-import', { body });
/** @param {string} device @param {{ sensor: string, value: string, from: string, to: string, points: number }} query @returns {Promise<Series>} */
export const series = (device, query) => json('GET', address(`/v1/devices/${part(device)}/series`, query));

// Sensors.

/** @param {PageRequest} [page] @returns {Promise<Page<Sensor>>} */
export const sensors = (page) => json('GET', address('/v1/sensors', paged(page)));
/** @param {Omit<Sensor, 'created'>} body @returns {Promise<Sensor>} */
export const createSensor = (body) => json('POST', '/v1/sensors', { body });
/** @param {string} name @param {Partial<Sensor>} body @returns {Promise<Sensor>} */
export const changeSensor = (name, body) => json('PATCH', `/v1/sensors/${part(name)}`, { body });
/** @param {string} name */
export const deleteSensor = (name) => nothing('DELETE', `/v1/sensors/${part(name)}`);

// Devices.

/** @param {PageRequest & Partial<Rectangle> & { q?: string, health?: string }} [query] @returns {Promise<Page<Device>>} */
export const devices = ({ left, right, up, down, q, health, ...page } = {}) =>
  json('GET', address('/v1/devices', { left, right, up, down, q, health, ...paged(page) }));
/** @param {string} name @param {PageRequest} [page] @returns {Promise<Page<HealthEntry>>} */
export const deviceHealth = (name, page) => json('GET', address(`/v1/devices/${part(name)}/health`, paged(page)));
/** @param {string} name @returns {Promise<Device>} */
export const device = (name) => json('GET', `/v1/devices/${part(name)}`);
/** @param {DeviceBody} body @returns {Promise<Device>} */
export const createDevice = (body) => json('POST', '/v1/devices', { body });
/** @param {string} name @param {Partial<Omit<DeviceBody, 'name'>>} body @returns {Promise<Device>} */
export const changeDevice = (name, body) => json('PATCH', `/v1/devices/${part(name)}`, { body });
/** @param {string} name */
export const deleteDevice = (name) => nothing('DELETE', `/v1/devices/${part(name)}`);
/** @param {string} name @returns {Promise<NewKey>} */
export const createDeviceKey = (name) => json('POST', `/v1/devices/${part(name)}/keys`, { body: {} });

/** @returns {Promise<string>} */
export const exportDevices = async () => (await send('GET', '/v1/devices-export?format=csv', { accept: 'text/csv' })).text();
/** @param {unknown} body @returns {Promise<{ created: number, changed: number }>} */
export const importDevices = (body) => json('POST', '/v1/devices-import', { body });
/** @param {PageRequest} [page] @returns {Promise<Page<Actuator>>} */
export const actuators = (page) => json('GET', address('/v1/actuators', paged(page)));
/** @param {Actuator} body @returns {Promise<Actuator>} */
export const createActuator = (body) => json('POST', '/v1/actuators', { body });
/** @param {string} name */
export const deleteActuator = (name) => nothing('DELETE', `/v1/actuators/${part(name)}`);
/** @param {string} name @param {PageRequest} [page] @returns {Promise<Page<Command>>} */
export const commands = (name, page) => json('GET', address(`/v1/devices/${part(name)}/commands`, paged(page)));
/** @param {string} name @param {{ actuator: string, steps: Step[], timeout_seconds?: number }} body */
export const sendCommands = (name, body) => nothing('POST', `/v1/devices/${part(name)}/commands`, { body });
/** @param {string} id */
export const cancelCommand = (id) => nothing('POST', `/v1/commands/${part(id)}/cancel`);
/** @param {string} name @returns {Promise<Twin>} */
export const twin = (name) => json('GET', `/v1/devices/${part(name)}/twin`);

// Rules, alerts, messages.

/** @param {PageRequest} [page] @returns {Promise<Page<Rule>>} */
export const rules = (page) => json('GET', address('/v1/rules', paged(page)));
/** @param {string} id @returns {Promise<Rule>} */
export const rule = (id) => json('GET', `/v1/rules/${part(id)}`);
/** @param {RuleBody} body @returns {Promise<Rule>} */
export const createRule = (body) => json('POST', '/v1/rules', { body });
/** @param {string} id @param {Partial<RuleBody>} body @returns {Promise<Rule>} */
export const changeRule = (id, body) => json('PATCH', `/v1/rules/${part(id)}`, { body });
/** @param {string} id */
export const deleteRule = (id) => nothing('DELETE', `/v1/rules/${part(id)}`);
/** @param {{ rule: RuleBody, from: string, to: string }} body @returns {Promise<DryRun>} */
export const dryRun = (body) => json('POST', '/v1/rules/dry-run', { body });
/** @param {string} id @param {PageRequest} [page] @returns {Promise<Page<RuleVersion>>} */
export const ruleVersions = (id, page) => json('GET', address(`/v1/rules/${part(id)}/versions`, paged(page)));
/** @param {string} id @param {number} version @returns {Promise<Rule>} */
export const restoreRule = (id, version) => json('POST', `/v1/rules/${part(id)}/restore`, { body: { version } });
/** @returns {Promise<{ rules: RuleBody[] }>} */
export const exportRules = () => json('GET', '/v1/rules-export');
/** @param {unknown} body @returns {Promise<{ created: number, changed: number }>} */
export const importRules = (body) => json('POST', '/v1/rules-import', { body });
/** @param {PageRequest & { state?: string, device?: string }} [query] @returns {Promise<Page<Alert>>} */
export const alerts = ({ state, device, ...page } = {}) => json('GET', address('/v1/alerts', { state, device, ...paged(page) }));
/** @param {string} id @returns {Promise<AlertDetail>} */
export const alert = (id) => json('GET', `/v1/alerts/${part(id)}`);
/** @param {string} id @param {'acknowledge' | 'clear'} deed @param {string | null} [note] @returns {Promise<Alert>} */
export const doAlert = (id, deed, note = null) => json('POST', `/v1/alerts/${part(id)}/${deed}`, { body: { note } });
/** @param {PageRequest & MessageFilter} [query] @returns {Promise<Page<Message>>} */
export const messages = ({ state, channel, endpoint, ...page } = {}) => json('GET', address('/v1/messages', { state, channel, endpoint, ...paged(page) }));
/** @param {string} id @returns {Promise<Message & { attempts_made: Attempt[] }>} */
export const message = (id) => json('GET', `/v1/messages/${part(id)}`);
/** @param {string} id @param {'release' | 'retry' | 'discard'} deed */
export const doMessage = (id, deed) => nothing('POST', `/v1/messages/${part(id)}/${deed}`);

// Endpoints.

/** @param {PageRequest} [page] @returns {Promise<Page<Endpoint>>} */
export const endpoints = (page) => json('GET', address('/v1/endpoints', paged(page)));
/** @param {EndpointBody} body @returns {Promise<Endpoint & { secret: string | null }>} */
export const createEndpoint = (body) => json('POST', '/v1/endpoints', { body });
/** @param {string} id @param {Partial<Omit<EndpointBody, 'channel'>> & { enabled?: boolean }} body @returns {Promise<Endpoint>} */
export const changeEndpoint = (id, body) => json('PATCH', `/v1/endpoints/${part(id)}`, { body });
/** @param {string} id */
export const deleteEndpoint = (id) => nothing('DELETE', `/v1/endpoints/${part(id)}`);
/** @param {string} id @returns {Promise<{ secret: string }>} */
export const rotateEndpoint = (id) => json('POST', `/v1/endpoints/${part(id)}/secrets`);
/** @param {string} id @returns {Promise<EndpointTested>} */
export const testEndpoint = (id) => json('POST', `/v1/endpoints/${part(id)}/test`);

// Dead letters.

/** @param {PageRequest & LetterFilter} [query] @returns {Promise<Page<DeadLetter>>} */
export const deadLetters = ({ source, handler, kind, reason, ...page } = {}) =>
  json('GET', address('/v1/dead-letters', { source, handler, kind, reason, ...paged(page) }));
/** @param {string} id @returns {Promise<DeadLetter>} */
export const deadLetter = (id) => json('GET', `/v1/dead-letters/${part(id)}`);
/** @param {string} id @returns {Promise<{ outcome: 'handled' | 'waiting' }>} */
export const replayDeadLetter = (id) => json('POST', `/v1/dead-letters/${part(id)}/replay`);
/** @param {string} id */
export const discardDeadLetter = (id) => nothing('DELETE', `/v1/dead-letters/${part(id)}`);
/** @param {LetterFilter} filter @returns {Promise<{ replayed: number, failed: number, held: number, more: boolean }>} */
export const replayDeadLetters = (filter) => json('POST', '/v1/dead-letters/replay', { body: filter });
/** @param {LetterFilter} filter @returns {Promise<{ discarded: number, more: boolean }>} */
export const discardDeadLetters = (filter) => json('POST', '/v1/dead-letters/discard', { body: filter });

// Jobs.

/** @param {PageRequest & { state?: JobState }} [query] @returns {Promise<Page<Job>>} */
export const jobs = ({ state, ...page } = {}) => json('GET', address('/v1/jobs', { state, ...paged(page) }));
/** @param {string} id @returns {Promise<{ job: Job, attempts: JobAttempt[] }>} */
export const job = (id) => json('GET', `/v1/jobs/${part(id)}`);
/** @param {string} id */
export const retryJob = (id) => nothing('POST', `/v1/jobs/${part(id)}/retry`);
/** @param {string} id @returns {Promise<{ outcome: 'cancelled' | 'asked' }>} */
export const cancelJob = (id) => json('POST', `/v1/jobs/${part(id)}/cancel`);
/** @param {string} id */
export const discardJob = (id) => nothing('POST', `/v1/jobs/${part(id)}/discard`);
/** @param {string} id */
export const runJobNow = (id) => nothing('POST', `/v1/jobs/${part(id)}/run-now`);
/** @returns {Promise<JobsOverview>} */
export const jobsOverview = () => json('GET', '/v1/jobs-overview');
/** @param {string} name */
export const pauseJobQueue = (name) => nothing('POST', `/v1/job-queues/${part(name)}/pause`);
/** @param {string} name */
export const resumeJobQueue = (name) => nothing('POST', `/v1/job-queues/${part(name)}/resume`);
/** @param {PageRequest} [page] @returns {Promise<Page<JobRun>>} */
export const jobRuns = (page) => json('GET', address('/v1/job-runs', paged(page)));
/** @param {string} id @returns {Promise<{ run: JobRun, tasks: Job[], edges: { before: string, after: string }[] }>} */
export const jobRun = (id) => json('GET', `/v1/job-runs/${part(id)}`);
/** @param {PageRequest} [page] @returns {Promise<Page<JobSchedule>>} */
export const jobSchedules = (page) => json('GET', address('/v1/job-schedules', paged(page)));
/** @param {NewJobSchedule} body @returns {Promise<JobSchedule>} */
export const createJobSchedule = (body) => json('POST', '/v1/job-schedules', { body });
/** @param {string} name @returns {Promise<JobSchedule>} */
export const pauseJobSchedule = (name) => json('POST', `/v1/job-schedules/${part(name)}/pause`);
/** @param {string} name @returns {Promise<JobSchedule>} */
export const resumeJobSchedule = (name) => json('POST', `/v1/job-schedules/${part(name)}/resume`);
/** @param {string} name */
export const deleteJobSchedule = (name) => nothing('DELETE', `/v1/job-schedules/${part(name)}`);

// SQL and the overview.

/** @param {string} sql @param {AbortSignal} [signal] @returns {Promise<Answer>} */
export const sql = (sql, signal) => json('POST', '/v1/sql', { body: { sql }, signal });
/** @param {string} sql @returns {Promise<Blob>} */
export const sqlCsv = async (sql) => (await send('POST', '/v1/sql', { body: { sql }, accept: 'text/csv' })).blob();
/** @returns {Promise<Overview>} */
export const overview = () => json('GET', '/v1/overview');

// Events.

const RETRY_MS_MIN = 1000;
const RETRY_MS_MAX = 30000;

/**
 * Follows a topic. The browser itself resumes a broken stream after the last event that it saw; a stream that the
 * server refused is asked for again, later and later.
 * @template T
 * @param {'readings' | 'alerts' | 'health'} topic
 * @param {{ onEvent: (event: T) => void, onState?: (state: StreamState) => void }} handlers
 * @returns {() => void} ends it
 */
export function events(topic, { onEvent, onState = () => {} }) {
  const kind = topic.replace(/s$/, '');
  /** @type {EventSource} */
  let source;
  let timer = 0;
  let delay = RETRY_MS_MIN;
  const open = () => {
    source = new EventSource(address('/v1/events', { topic }));
    source.addEventListener('open', () => {
      delay = RETRY_MS_MIN;
      onState('live');
    });
    source.addEventListener(kind, (event) => onEvent(JSON.parse(/** @type {MessageEvent} */ (event).data)));
    source.addEventListener('error', () => {
      onState('reconnecting');
      if (source.readyState !== EventSource.CLOSED) return;
      timer = window.setTimeout(open, delay);
      delay = Math.min(delay * 2, RETRY_MS_MAX);
      // A refused stream does not say why; the session does.
      session().catch((error) => {
        if (error instanceof Problem && error.status === 401) whenSignedOut();
      });
    });
  };
  onState('connecting');
  open();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}

/** @param {PageRequest} [page] @returns {Promise<Page<CommentSite>>} */
export const commentSites = (page) => json('GET', address('/v1/comment-sites', paged(page)));
/** @param {CommentSiteBody} body @returns {Promise<CommentSite>} */
export const createCommentSite = (body) => json('POST', '/v1/comment-sites', { body });
/** @param {string} id @returns {Promise<CommentSite>} */
export const commentSite = (id) => json('GET', `/v1/comment-sites/${part(id)}`);
/** @param {string} id @param {Partial<CommentSiteBody>} body @returns {Promise<CommentSite>} */
export const changeCommentSite = (id, body) => json('PATCH', `/v1/comment-sites/${part(id)}`, { body });
/** @param {string} id */
export const deleteCommentSite = (id) => nothing('DELETE', `/v1/comment-sites/${part(id)}`);
/** @param {string} id @returns {Promise<CommentSite>} */
export const rotateCommentSiteKey = (id) => json('POST', `/v1/comment-sites/${part(id)}/rotate-key`);
/** @param {string} id @returns {Promise<Record<CommentState, number>>} */
export const commentStates = (id) => json('GET', `/v1/comment-sites/${part(id)}/states`);
/** @param {string} id @param {CommentFilter & PageRequest} filter @returns {Promise<Page<CommentEntry>>} */
export const siteComments = (id, { state, text, ...page }) => json('GET', address(`/v1/comment-sites/${part(id)}/comments`, { state, text, ...paged(page) }));
/** @param {string} id @param {string} action @param {string[]} comments @returns {Promise<{ changed: number }>} */
export const actOnComments = (id, action, comments) => json('POST', `/v1/comment-sites/${part(id)}/actions`, { body: { action, comments } });
/** @param {string} id @param {{ parent: string, name: string, text: string }} body @returns {Promise<CommentEntry>} */
export const answerComment = (id, body) => json('POST', `/v1/comment-sites/${part(id)}/answers`, { body });
/** @param {string} id @param {{ by: string, from: string, to: string }} range @returns {Promise<CommentStatistics>} */
export const commentStatistics = (id, { by, from, to }) => json('GET', address(`/v1/comment-sites/${part(id)}/statistics`, { by, from, to }));
