//! One computation for everybody who asks the same while it runs, if it began from versions that are new
//! enough for them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::Error;
use crate::meter::Meter;
use crate::mirror::{Versions, covers};
use crate::question::Identity;

pub(crate) type Outcome = Result<Bytes, Error>;
/// A caller's computation, not begun.
pub(crate) type Compute = Box<dyn FnOnce() -> Computing + Send>;
pub(crate) type Computing = Pin<Box<dyn Future<Output = Outcome> + Send>>;

pub(crate) struct Flights {
    at_once_max: usize,
    room: Arc<Semaphore>,
    boarding: Mutex<Boarding>,
    meter: Arc<Meter>,
}

#[derive(Default)]
struct Boarding {
    /// The newest of each question. An older one goes on for those who are aboard.
    flights: HashMap<Arc<Identity>, Flight>,
    /// Never given twice, so that an old flight cannot end the boarding of another.
    number_next: u64,
}

struct Flight {
    number: u64,
    versions: Versions,
    /// Of the first who joined, for the case that the leader's panics.
    spare: Spare,
    landed: watch::Receiver<Option<Outcome>>,
}

type Spare = Arc<Mutex<Option<Compute>>>;

/// How a caller comes to its answer.
pub(crate) enum Boarded {
    /// It was kept a moment ago.
    Kept(Bytes),
    Joined(Passenger),
    /// The caller's computation is to begin; the caller waits for it like everybody.
    Leads(Leader, Compute, Passenger),
}

/// Waits for an outcome.
pub(crate) struct Passenger(watch::Receiver<Option<Outcome>>);

/// Is there while the computation is; when it goes without landing, nobody waits for it any more.
pub(crate) struct Leader {
    flights: Arc<Flights>,
    identity: Arc<Identity>,
    number: u64,
    spare: Spare,
    landing: watch::Sender<Option<Outcome>>,
    _room: OwnedSemaphorePermit,
}

impl Flights {
    pub(crate) fn new(at_once_max: usize, meter: Arc<Meter>) -> Self {
        let room = Arc::new(Semaphore::new(at_once_max.min(Semaphore::MAX_PERMITS)));
        Self { at_once_max, room, boarding: Mutex::default(), meter }
    }

    /// Joins a flight that began from `versions` or newer ones, or begins one. `kept` looks once more what
    /// is kept, as a flight may have landed since the caller looked.
    pub(crate) fn board(
        self: &Arc<Self>,
        identity: Identity,
        versions: &Versions,
        compute: Compute,
        kept: impl FnOnce() -> Option<Bytes>,
    ) -> Result<Boarded, Error> {
        let mut boarding = self.boarding.lock();
        if let Some(flight) = boarding.flights.get(&identity)
            && covers(&flight.versions, versions)
        {
            let mut spare = flight.spare.lock();
            if spare.is_none() {
                *spare = Some(compute);
            }
            drop(spare);
            return Ok(Boarded::Joined(Passenger(flight.landed.clone())));
        }
        if let Some(bytes) = kept() {
            return Ok(Boarded::Kept(bytes));
        }
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            return Err(Error::TooManyFlights { flights_max: self.at_once_max });
        };
        let identity = Arc::new(identity);
        let (landing, landed) = watch::channel(None);
        let number = boarding.number_next;
        boarding.number_next += 1;
        let spare = Spare::default();
        let leads = Leader {
            flights: self.clone(),
            identity: identity.clone(),
            number,
            spare: spare.clone(),
            landing,
            _room: room,
        };
        let passenger = Passenger(landed.clone());
        let flight = Flight { number, versions: versions.clone(), spare, landed };
        boarding.flights.insert(identity, flight);
        self.meter.flights.inc();
        Ok(Boarded::Leads(leads, compute, passenger))
    }
}

impl Leader {
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The computation of somebody else who waits, once.
    pub(crate) fn spare(&self) -> Option<Compute> {
        self.spare.lock().take()
    }

    /// Ends the boarding, then tells everybody: nobody joins a flight whose outcome is known.
    pub(crate) fn land(&self, outcome: Outcome) {
        self.end();
        self.landing.send_replace(Some(outcome));
    }

    fn end(&self) {
        let mut boarding = self.flights.boarding.lock();
        let newest = boarding.flights.get(&self.identity);
        if newest.is_some_and(|flight| flight.number == self.number) {
            boarding.flights.remove(&self.identity);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.end();
        self.flights.meter.flights.dec();
    }
}

impl Passenger {
    /// Nothing when the computation went away without an outcome.
    pub(crate) async fn outcome(mut self) -> Option<Outcome> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}
