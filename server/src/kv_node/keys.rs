//! Keys in a file: their ids, the hashes of their secrets, and what they may do.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Clock, Entropy, KeyId, OrganisationId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::{Grant, key_id, key_text};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

/// How often the file is looked at: a key that is taken out is refused within a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const SECRET_BYTES_MAX: usize = 100;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    keys: Vec<Key>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    id: String,
    label: String,
    /// Of the secret's text; a secret has 256 bits of its own, so it needs no slow hash.
    secret_sha256: String,
    grants: Vec<Grant>,
}

/// Decides by the file.
pub(super) struct KeyFile {
    path: PathBuf,
    known: RwLock<Known>,
    epoch: watch::Sender<u64>,
}

struct Known {
    text: String,
    keys: HashMap<KeyId, Key>,
}

/// Adds a key to the file, which is made if it is missing; gives the key as clients say it.
pub(super) fn add(
    path: &Path,
    label: &str,
    grants: Vec<Grant>,
    entropy: &Entropy,
) -> Result<String> {
    let mut file = match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("read {}", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::default(),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let secret = URL_SAFE_NO_PAD.encode(entropy.bytes::<32>());
    let id = key_text(KeyId::from_bytes(entropy.bytes()));
    let grants = if grants.is_empty() { vec![Grant::all()] } else { grants };
    file.keys.push(Key {
        id: id.clone(),
        label: label.to_owned(),
        secret_sha256: hash(&secret),
        grants,
    });
    base::write_whole(path, toml::to_string(&file)?.as_bytes())
        .with_context(|| format!("write {}", path.display()))?;
    Ok(format!("{id}:{secret}"))
}

fn hash(secret: &str) -> String {
    use std::fmt::Write;
    Sha256::digest(secret.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

impl KeyFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let known = Known::read(path).with_context(|| {
            format!(
                "read the keys of {}; `madang kv-node --keys FILE --new-key LABEL` makes one",
                path.display()
            )
        })?;
        ensure!(!known.keys.is_empty(), "{} holds no key", path.display());
        Ok(Self { path: path.to_owned(), known: RwLock::new(known), epoch: watch::Sender::new(0) })
    }

    /// Takes over what the file says now. One that cannot be read changes nothing.
    fn look(&self) {
        match Known::read(&self.path) {
            Ok(found) if found.text == self.known.read().text => {}
            Ok(found) => {
                tracing::info!(keys = found.keys.len(), "the keys have changed");
                *self.known.write() = found;
                self.epoch.send_modify(|epoch| *epoch += 1);
            }
            Err(error) => tracing::error!("the keys stay as they were: {error:#}"),
        }
    }
}

/// Follows the changes of the file.
pub(super) async fn follow(keys: Arc<KeyFile>, clock: Clock) -> Result<(), base::Failure> {
    loop {
        clock.sleep(LOOK_EVERY).await;
        let keys = keys.clone();
        tokio::task::spawn_blocking(move || keys.look()).await?;
    }
}

impl Known {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let file: File = toml::from_str(&text)?;
        let mut keys = HashMap::new();
        for key in file.keys {
            let id = key_id(&key.id).with_context(|| {
                format!("`{}` is no id of a key: 32 hexadecimal digits", key.id)
            })?;
            key.grants.iter().try_for_each(Grant::check)?;
            ensure!(keys.insert(id, key).is_none(), "a key is there twice");
        }
        Ok(Self { text, keys })
    }
}

impl Authority for KeyFile {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        key: &'a str,
        secret: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, Refused>> + Send + 'a>> {
        let known = self.known.read();
        let found = key_id(key).and_then(|id| Some((id, known.keys.get(&id)?)));
        let answer = match found {
            Some((id, key))
                if secret.len() <= SECRET_BYTES_MAX
                    && bool::from(hash(secret).as_bytes().ct_eq(key.secret_sha256.as_bytes())) =>
            {
                Ok(Principal {
                    organisation: OrganisationId::DEFAULT,
                    subject: Subject::Key(id),
                    name: key.label.as_str().into(),
                })
            }
            _ => Err(Refused::Unauthenticated),
        };
        Box::pin(ready(answer))
    }

    fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        let Subject::Key(id) = principal.subject else { return Err(Refused::Forbidden) };
        let known = self.known.read();
        let key = known.keys.get(&id).ok_or(Refused::Unauthenticated)?;
        let is_allowed = key.grants.iter().any(|grant| grant.allows(action.0, resource.path));
        is_allowed.then_some(()).ok_or(Refused::Forbidden)
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    fn is_current(&self, principal: &Principal) -> bool {
        matches!(principal.subject, Subject::Key(id) if self.known.read().keys.contains_key(&id))
    }
}
