use relational::Migration;

pub(crate) const MIGRATIONS: &[Migration] = &[FIRST, ENTERING, ISSUER, ALGORITHMS, PEOPLE, LEAVING];

const FIRST: Migration = Migration {
    id: "0001-identity",
    sql: "
CREATE TABLE organisation (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    created BIGINT NOT NULL
);
CREATE TABLE account (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    email VARCHAR(254) NOT NULL UNIQUE,
    password_hash VARCHAR(200),
    role VARCHAR(10) NOT NULL,
    created BIGINT NOT NULL,
    signed_in BIGINT,
    FOREIGN KEY (organisation) REFERENCES organisation (id)
);
CREATE TABLE session (
    token_hash VARCHAR(64) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    created BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE INDEX session_account ON session (account, created);
CREATE TABLE link (
    token_hash VARCHAR(64) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    used BIGINT,
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE INDEX link_account ON link (account);
CREATE TABLE access_key (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    label VARCHAR(200) NOT NULL,
    secret_hash VARCHAR(64) NOT NULL,
    created_by VARCHAR(100) NOT NULL,
    created BIGINT NOT NULL,
    revoked BIGINT,
    FOREIGN KEY (organisation) REFERENCES organisation (id)
);
CREATE INDEX access_key_organisation ON access_key (organisation, id);
CREATE TABLE access_grant (
    subject VARCHAR(36) NOT NULL,
    position BIGINT NOT NULL,
    organisation VARCHAR(36) NOT NULL,
    action VARCHAR(100) NOT NULL,
    resource VARCHAR(1000) NOT NULL,
    PRIMARY KEY (subject, position)
);
CREATE TABLE audit (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    time BIGINT NOT NULL,
    subject VARCHAR(100) NOT NULL,
    door VARCHAR(10) NOT NULL,
    action VARCHAR(100) NOT NULL,
    resource VARCHAR(1000) NOT NULL,
    outcome VARCHAR(10) NOT NULL,
    detail VARCHAR(1000) NOT NULL
);
CREATE INDEX audit_organisation ON audit (organisation, id);
CREATE INDEX audit_time ON audit (time);
",
};

/// Everybody signs in again: sessions get a name, by which they are listed and ended.
const ENTERING: Migration = Migration {
    id: "0002-entering",
    // `token_hash` of a session is the cookie's, or of the refresh token that counts now; `spent_token` holds those
    // that counted before. A `ticket` is used once; `proves` says that it went to the account's address.
    sql: "
ALTER TABLE account ADD COLUMN verified BIGINT;
UPDATE account SET verified = created;
DROP TABLE session;
DROP TABLE link;
CREATE TABLE session (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    kind VARCHAR(10) NOT NULL,
    token_hash VARCHAR(64) NOT NULL UNIQUE,
    access_hash VARCHAR(64),
    access_expires BIGINT,
    agent VARCHAR(200) NOT NULL,
    address VARCHAR(45) NOT NULL,
    created BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE INDEX session_account ON session (account, created);
CREATE INDEX session_expires ON session (expires);
CREATE TABLE spent_token (
    token_hash VARCHAR(64) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    session VARCHAR(36) NOT NULL,
    expires BIGINT NOT NULL
);
CREATE INDEX spent_token_session ON spent_token (session);
CREATE INDEX spent_token_expires ON spent_token (expires);
CREATE TABLE ticket (
    token_hash VARCHAR(64) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    kind VARCHAR(10) NOT NULL,
    proves BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    used BIGINT,
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE INDEX ticket_account ON ticket (account);
CREATE INDEX ticket_expires ON ticket (expires);
CREATE TABLE invitation (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    email VARCHAR(254) NOT NULL,
    role VARCHAR(10) NOT NULL,
    token_hash VARCHAR(64) NOT NULL UNIQUE,
    proves BIGINT NOT NULL,
    invited_by VARCHAR(100) NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    FOREIGN KEY (organisation) REFERENCES organisation (id)
);
CREATE INDEX invitation_organisation ON invitation (organisation, id);
CREATE TABLE totp (
    account VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    sealed BLOB NOT NULL,
    last_step BIGINT NOT NULL,
    confirmed BIGINT,
    created BIGINT NOT NULL,
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE TABLE recovery_code (
    account VARCHAR(36) NOT NULL,
    code_hash VARCHAR(64) NOT NULL,
    organisation VARCHAR(36) NOT NULL,
    used BIGINT,
    PRIMARY KEY (account, code_hash)
);
CREATE TABLE passkey (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    name VARCHAR(200) NOT NULL,
    credential_hash VARCHAR(64) NOT NULL UNIQUE,
    credential TEXT NOT NULL,
    public_key BLOB NOT NULL,
    counter BIGINT NOT NULL,
    backed_up BIGINT NOT NULL,
    created BIGINT NOT NULL,
    used BIGINT,
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE INDEX passkey_account ON passkey (account, id);
CREATE TABLE provider_link (
    provider VARCHAR(50) NOT NULL,
    subject_hash VARCHAR(64) NOT NULL,
    subject TEXT NOT NULL,
    account VARCHAR(36) NOT NULL,
    organisation VARCHAR(36) NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (provider, subject_hash),
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE INDEX provider_link_account ON provider_link (account);
CREATE TABLE spent_challenge (
    challenge_hash VARCHAR(64) NOT NULL PRIMARY KEY,
    expires BIGINT NOT NULL
);
CREATE INDEX spent_challenge_expires ON spent_challenge (expires);
CREATE INDEX audit_subject ON audit (organisation, subject, id);
CREATE INDEX audit_action ON audit (organisation, action, id);
",
};

/// Tools that let people in by this server.
const ISSUER: Migration = Migration {
    id: "0003-issuer",
    // Places to go back to are lines. A `tool_grant` begins with a code and holds the texts that came of it;
    // `tool_spent` holds those that were exchanged. `methods` of a session says how it was entered (RFC 8176).
    sql: "
ALTER TABLE session ADD COLUMN methods VARCHAR(50);
CREATE TABLE tool (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    name VARCHAR(200) NOT NULL,
    redirect_uris TEXT NOT NULL,
    logout_uris TEXT NOT NULL,
    secret_hash VARCHAR(64),
    created_by VARCHAR(100) NOT NULL,
    created BIGINT NOT NULL,
    FOREIGN KEY (organisation) REFERENCES organisation (id)
);
CREATE INDEX tool_organisation ON tool (organisation, id);
CREATE TABLE tool_grant (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    tool VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    session VARCHAR(36) NOT NULL,
    offline BIGINT NOT NULL,
    scope VARCHAR(100) NOT NULL,
    nonce TEXT,
    auth_time BIGINT NOT NULL,
    methods VARCHAR(50),
    redirect_uri TEXT NOT NULL,
    challenge VARCHAR(64) NOT NULL,
    code_hash VARCHAR(64) NOT NULL UNIQUE,
    code_expires BIGINT NOT NULL,
    code_used BIGINT,
    access_hash VARCHAR(64) UNIQUE,
    access_expires BIGINT,
    refresh_hash VARCHAR(64) UNIQUE,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE INDEX tool_grant_tool ON tool_grant (tool);
CREATE INDEX tool_grant_account ON tool_grant (account, tool);
CREATE INDEX tool_grant_expires ON tool_grant (expires);
CREATE TABLE tool_spent (
    token_hash VARCHAR(64) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    given VARCHAR(36) NOT NULL,
    expires BIGINT NOT NULL
);
CREATE INDEX tool_spent_given ON tool_spent (given);
CREATE INDEX tool_spent_expires ON tool_spent (expires);
CREATE TABLE signing_key (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    sealed BLOB NOT NULL,
    created BIGINT NOT NULL
);
",
};

/// Nothing is ES256, which was all that there was.
const ALGORITHMS: Migration = Migration {
    id: "0004-algorithms",
    sql: "
ALTER TABLE tool ADD COLUMN algorithm VARCHAR(10);
ALTER TABLE signing_key ADD COLUMN algorithm VARCHAR(10);
",
};

/// People as an organisation sees them, and groups that they are in.
const PEOPLE: Migration = Migration {
    id: "0005-people",
    // Who was removed stays as a row without anything personal: others' rows name it. The grants of a group are in
    // `access_grant` under its id. `user_name` and `outside_id` are a directory's. `readdressed`: the address was set
    // by whoever may do as much, so what else one enters by is the owner's all the same.
    sql: "
ALTER TABLE account ADD COLUMN name VARCHAR(200);
ALTER TABLE account ADD COLUMN given_name VARCHAR(200);
ALTER TABLE account ADD COLUMN family_name VARCHAR(200);
ALTER TABLE account ADD COLUMN user_name VARCHAR(254);
ALTER TABLE account ADD COLUMN outside_id VARCHAR(254);
ALTER TABLE account ADD COLUMN suspended BIGINT;
ALTER TABLE account ADD COLUMN removed BIGINT;
ALTER TABLE account ADD COLUMN changed BIGINT;
ALTER TABLE account ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN readdressed BIGINT;
CREATE UNIQUE INDEX account_user_name ON account (organisation, user_name);
CREATE INDEX account_outside_id ON account (organisation, outside_id);
CREATE INDEX account_organisation ON account (organisation, id);
CREATE TABLE people_group (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    name VARCHAR(200) NOT NULL,
    outside_id VARCHAR(254),
    created_by VARCHAR(100) NOT NULL,
    created BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    version BIGINT NOT NULL,
    FOREIGN KEY (organisation) REFERENCES organisation (id)
);
CREATE UNIQUE INDEX people_group_name ON people_group (organisation, name);
CREATE INDEX people_group_outside_id ON people_group (organisation, outside_id);
CREATE TABLE group_member (
    people_group VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    organisation VARCHAR(36) NOT NULL,
    PRIMARY KEY (people_group, account),
    FOREIGN KEY (people_group) REFERENCES people_group (id),
    FOREIGN KEY (account) REFERENCES account (id)
);
CREATE INDEX group_member_account ON group_member (account);
",
};

/// What became of the texts of who was removed.
const LEAVING: Migration = Migration {
    id: "0006-leaving",
    sql: "
ALTER TABLE account ADD COLUMN texts_erased BIGINT NOT NULL DEFAULT 0;
CREATE INDEX account_removed ON account (removed);
",
};
