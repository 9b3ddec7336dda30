use relational::Migration;

pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
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
}];
