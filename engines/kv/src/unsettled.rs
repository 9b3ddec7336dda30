//! What was changed in memory and could not be put on disk: until it is there, nobody is shown it.

use std::collections::HashSet;

use crate::command::{self, Command, flag};
use crate::log::effect;
use crate::wire::request::{Args, Owned};

pub(crate) struct Unsettled {
    /// Names of changed keys, in whatever database.
    keys: HashSet<Box<[u8]>>,
    is_everything: bool,
}

impl Unsettled {
    /// The keys that these effects change.
    pub(crate) fn by(mut effects: &[u8]) -> Self {
        let mut found = Self { keys: HashSet::new(), is_everything: false };
        let mut args = Vec::new();
        while !effects.is_empty() {
            if effect::read(&mut effects, &mut args).is_none() {
                found.is_everything = true;
                break;
            }
            let owned = Owned::new(args.iter().copied());
            match command::find(owned.args()) {
                Some(command) if !command.has(flag::WHOLE) => {
                    let keys = command.keys(owned.args()).into_iter();
                    found.keys.extend(keys.filter_map(|at| owned.args().get(at)).map(Box::from));
                }
                Some(_) => found.is_everything = true,
                // A new organisation, which has no keys.
                None => {}
            }
        }
        found
    }

    /// Whether a command would tell of them.
    pub(crate) fn hides(&self, command: &Command, args: Args<'_>) -> bool {
        if !command.has(flag::READ | flag::WRITE | flag::WHOLE) {
            return false;
        }
        // Sorting reads keys that it does not name.
        self.is_everything
            || command.has(flag::WHOLE)
            || command.name.starts_with("sort")
            || command
                .keys(args)
                .into_iter()
                .any(|at| args.get(at).is_some_and(|key| self.keys.contains(key)))
    }
}
