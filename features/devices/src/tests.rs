use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::pipeline::Step;
use crate::{Error, Result};

/// Stops pipelines where a test wants them to be killed.
#[derive(Clone, Default)]
pub(crate) struct Hook(Arc<(Mutex<Option<Step>>, Notify)>);

impl Hook {
    pub(crate) async fn at(&self, step: Step) -> Result<(), Error> {
        let is_here = *self.0.0.lock() == Some(step);
        if is_here {
            self.0.1.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}
