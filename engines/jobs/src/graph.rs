//! Tasks that come after each other: what a team writes down, whether it can run, and which tasks may begin.

use std::collections::{BTreeMap, HashMap, HashSet};

use base::{OrganisationId, Timestamp};

use crate::job::named;
use crate::{Error, Job, JobId, New, Priority, RunId, State};
use std::fmt;

/// Tasks with names, each of which begins when all that it comes after have succeeded.
///
/// ```
/// # use base::OrganisationId;
/// use jobs::{Graph, Task};
///
/// let graph = Graph::new(OrganisationId::DEFAULT, "nightly")
///     .task("extract", Task::of("fetch", "{}"), [])
///     .task("load", Task::of("store", "{}"), ["extract"])
///     .task("mail", Task::of("report", "{}"), ["load"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    pub(crate) organisation: OrganisationId,
    pub(crate) name: String,
    pub(crate) tasks: Vec<Named>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) task: Task,
    pub(crate) after: Vec<String>,
}

/// What a task of a graph does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub kind: String,
    pub payload: Vec<u8>,
    pub queue: Option<String>,
    pub priority: Priority,
    pub concurrency_key: Option<String>,
}

impl Task {
    pub fn of(kind: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind: kind.into(),
            payload: payload.into(),
            queue: None,
            priority: Priority::Normal,
            concurrency_key: None,
        }
    }

    pub(crate) fn job(self, organisation: OrganisationId) -> New {
        let Self { kind, payload, queue, priority, concurrency_key } = self;
        New { queue, priority, concurrency_key, ..New::of(organisation, kind, payload) }
    }
}

impl Graph {
    pub fn new(organisation: OrganisationId, name: impl Into<String>) -> Self {
        Self { organisation, name: name.into(), tasks: Vec::new() }
    }

    /// Adds a task that comes after others, which may be added later than it.
    #[must_use]
    pub fn task<const N: usize>(
        self,
        name: impl Into<String>,
        task: Task,
        after: [&str; N],
    ) -> Self {
        self.task_after(name, task, after.map(str::to_owned))
    }

    /// The same for names that are computed.
    #[must_use]
    pub fn task_after(
        mut self,
        name: impl Into<String>,
        task: Task,
        after: impl IntoIterator<Item = String>,
    ) -> Self {
        let after = after.into_iter().collect();
        self.tasks.push(Named { name: name.into(), task, after });
        self
    }

    /// For each task, the places of those that it comes after; an error when it can never run to its end.
    pub(crate) fn check(&self) -> Result<Vec<Vec<usize>>, Error> {
        let mut places = HashMap::new();
        for (place, task) in self.tasks.iter().enumerate() {
            if places.insert(task.name.as_str(), place).is_some() {
                return Err(Error::TaskTwice(task.name.clone()));
            }
        }
        let mut before = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let mut of_task = Vec::with_capacity(task.after.len());
            for name in &task.after {
                let Some(place) = places.get(name.as_str()) else {
                    return Err(Error::NoTask { task: task.name.clone(), missing: name.clone() });
                };
                if !of_task.contains(place) {
                    of_task.push(*place);
                }
            }
            before.push(of_task);
        }
        self.circle(&before)?;
        Ok(before)
    }

    /// Takes away what can run until nothing is left, or only tasks that wait for each other.
    fn circle(&self, before: &[Vec<usize>]) -> Result<(), Error> {
        let mut after = vec![Vec::new(); before.len()];
        for (place, of_task) in before.iter().enumerate() {
            for first in of_task {
                after[*first].push(place);
            }
        }
        let mut waits: Vec<usize> = before.iter().map(Vec::len).collect();
        let mut free: Vec<usize> = (0..waits.len()).filter(|place| waits[*place] == 0).collect();
        while let Some(place) = free.pop() {
            for next in &after[place] {
                waits[*next] -= 1;
                if waits[*next] == 0 {
                    free.push(*next);
                }
            }
        }
        let left = self.tasks.iter().zip(&waits).filter(|(_, waits)| **waits > 0);
        let names: Vec<&str> = left.map(|(task, _)| task.name.as_str()).take(5).collect();
        if names.is_empty() { Ok(()) } else { Err(Error::Circle(names.join(", "))) }
    }
}

named! {
    /// How a run stands, as its tasks do.
    RunState {
        Running = "running",
        Succeeded = "succeeded",
        /// A task failed, and nothing is left that could run.
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

/// One run of a graph as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: RunId,
    pub organisation: OrganisationId,
    pub name: String,
    pub created: Timestamp,
    pub state: RunState,
    /// How many tasks stand how.
    pub tasks: BTreeMap<State, u64>,
}

/// A run with its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDetail {
    pub run: Run,
    pub tasks: Vec<Job>,
    /// Names of tasks: the second comes after the first.
    pub edges: Vec<(String, String)>,
}

pub(crate) fn run_state(tasks: &BTreeMap<State, u64>) -> RunState {
    let has = |state: &State| tasks.get(state).is_some_and(|count| *count > 0);
    if [State::Ready, State::Running, State::Scheduled, State::Limited].iter().any(has) {
        return RunState::Running;
    }
    if [State::Dead, State::Discarded].iter().any(has) {
        return RunState::Failed;
    }
    if has(&State::Cancelled) {
        return RunState::Cancelled;
    }
    if has(&State::Waiting) { RunState::Running } else { RunState::Succeeded }
}

/// A task of a run that is being settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) state: State,
}

/// How a task that has not begun is to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    Ready,
    Waiting { waits: u32 },
    Skipped { reason: String },
}

/// What becomes of the tasks that wait or were skipped, now that others stand as they do.
pub(crate) fn settle(tasks: &[Standing], edges: &[(JobId, JobId)]) -> Vec<(JobId, Settled)> {
    let mut before: HashMap<JobId, Vec<JobId>> = HashMap::new();
    for (first, next) in edges {
        before.entry(*next).or_default().push(*first);
    }
    let standing: HashMap<JobId, &Standing> = tasks.iter().map(|task| (task.id, task)).collect();
    let mut settled: HashMap<JobId, Settled> = HashMap::new();
    let mut left: Vec<&Standing> =
        tasks.iter().filter(|task| matches!(task.state, State::Waiting | State::Skipped)).collect();
    // What it depends on is settled first; each round settles at least one, for there is no circle.
    while !left.is_empty() {
        let open: HashSet<JobId> = left.iter().map(|task| task.id).collect();
        let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|task| {
            let first = before.get(&task.id);
            !first.is_some_and(|first| first.iter().any(|first| open.contains(first)))
        });
        for task in &now {
            let first = before.get(&task.id).map_or(&[][..], Vec::as_slice);
            settled.insert(task.id, of_task(first, &standing, &settled));
        }
        if now.is_empty() {
            break;
        }
        left = later;
    }
    let mut settled: Vec<(JobId, Settled)> = settled.into_iter().collect();
    settled.sort_by_key(|(id, _)| *id);
    settled
}

fn of_task(
    before: &[JobId],
    standing: &HashMap<JobId, &Standing>,
    settled: &HashMap<JobId, Settled>,
) -> Settled {
    let mut waits = 0;
    for first in before {
        let Some(task) = standing.get(first) else { continue };
        match (settled.get(first), task.state) {
            (Some(Settled::Skipped { .. }), _) => {
                return Settled::Skipped { reason: format!("{} was skipped", task.name) };
            }
            (None, State::Dead | State::Cancelled | State::Discarded) => {
                return Settled::Skipped { reason: format!("{} is {}", task.name, task.state) };
            }
            (None, State::Done) => {}
            _ => waits += 1,
        }
    }
    if waits == 0 { Settled::Ready } else { Settled::Waiting { waits } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(tasks: &[(&str, &[&str])]) -> Graph {
        let empty = Graph::new(OrganisationId::DEFAULT, "g");
        tasks.iter().fold(empty, |graph, (name, after)| {
            let after: Vec<String> = after.iter().map(|name| (*name).to_owned()).collect();
            graph.task_after(*name, Task::of("k", "{}"), after)
        })
    }

    #[test]
    fn a_graph_that_cannot_end_is_refused_by_the_names_of_its_tasks() {
        let sound = graph(&[("c", &["a", "b", "a"]), ("a", &[]), ("b", &["a"])]);
        assert_eq!(sound.check().unwrap(), [vec![1, 2], vec![], vec![1]]);
        let refused = |tasks: &[(&str, &[&str])]| graph(tasks).check().unwrap_err().to_string();
        assert!(refused(&[("a", &[]), ("a", &[])]).contains("a twice"));
        assert!(refused(&[("a", &["x"])]).contains("comes after x"));
        assert!(refused(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]).ends_with("a, b"));
        assert!(refused(&[("a", &["a"])]).ends_with(": a"));
    }

    #[test]
    fn what_comes_after_a_failure_is_skipped_and_the_rest_goes_on() {
        let id = |number: u128| JobId::fixed(number);
        let task =
            |number, name: &str, state| Standing { id: id(number), name: name.into(), state };
        let edges =
            [(id(1), id(3)), (id(3), id(4)), (id(2), id(5)), (id(1), id(5)), (id(2), id(6))];
        let mut tasks = vec![
            task(1, "a", State::Dead),
            task(2, "b", State::Done),
            task(3, "c", State::Waiting),
            task(4, "d", State::Waiting),
            task(5, "e", State::Skipped),
            task(6, "f", State::Waiting),
        ];
        let skipped = |reason: &str| Settled::Skipped { reason: reason.to_owned() };
        assert_eq!(
            settle(&tasks, &edges),
            [
                (id(3), skipped("a is dead")),
                (id(4), skipped("c was skipped")),
                (id(5), skipped("a is dead")),
                (id(6), Settled::Ready),
            ]
        );
        tasks[0].state = State::Ready;
        assert_eq!(
            settle(&tasks, &edges),
            [
                (id(3), Settled::Waiting { waits: 1 }),
                (id(4), Settled::Waiting { waits: 1 }),
                (id(5), Settled::Waiting { waits: 1 }),
                (id(6), Settled::Ready),
            ]
        );
    }

    #[test]
    fn a_run_stands_as_its_tasks_do() {
        let of = |states: &[State]| {
            let mut tasks = BTreeMap::new();
            for state in states {
                *tasks.entry(*state).or_default() += 1;
            }
            run_state(&tasks)
        };
        assert_eq!(of(&[State::Done, State::Ready]), RunState::Running);
        assert_eq!(of(&[State::Done, State::Waiting]), RunState::Running);
        assert_eq!(of(&[State::Dead, State::Running]), RunState::Running);
        assert_eq!(of(&[State::Dead, State::Skipped, State::Done]), RunState::Failed);
        assert_eq!(of(&[State::Cancelled, State::Skipped]), RunState::Cancelled);
        assert_eq!(of(&[State::Done, State::Done]), RunState::Succeeded);
    }
}
