use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use parking_lot::Mutex;

use crate::Error;
use crate::rows::{Identities, Key, Rows, key_at};

/// Rows that were accepted and are not yet in Delta, with the offsets that they reach.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) rows: usize,
    pub(crate) offsets: BTreeMap<String, u64>,
    known: Arc<Mutex<Known>>,
}

/// Which rows a tail has, as far as somebody asked: most that comes is newer than all there is, and nobody does.
#[derive(Debug, Default)]
struct Known {
    keys: Identities,
    /// The first so many rows are among them.
    rows: usize,
}

/// A tail at one moment, to look for identities in while it grows.
#[derive(Debug)]
pub(crate) struct Look {
    batches: Vec<RecordBatch>,
    known: Arc<Mutex<Known>>,
}

/// As many small batches at the end become one: appends of a single row must not cost a batch each.
const SMALL_BATCHES: usize = 32;
const SMALL_ROWS: usize = 4_096;

impl Tail {
    pub(crate) fn push(&mut self, source: &str, offset: u64, rows: Rows) -> Result<(), Error> {
        if !rows.is_empty() {
            let batch = rows.finish()?;
            self.rows += batch.num_rows();
            self.batches.push(batch);
            self.merge_small()?;
        }
        self.offsets.insert(source.to_owned(), offset);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(crate) fn look(&self) -> Look {
        Look { batches: self.batches.clone(), known: self.known.clone() }
    }

    /// The rows stay in their order.
    fn merge_small(&mut self) -> Result<(), Error> {
        let small = self.batches.iter().rev().take_while(|batch| batch.num_rows() < SMALL_ROWS);
        let small = small.count();
        if small < SMALL_BATCHES {
            return Ok(());
        }
        let parts = &self.batches[self.batches.len() - small..];
        let merged = concat_batches(&parts[0].schema(), parts)
            .map_err(|error| Error::internal("merge small batches", error))?;
        self.batches.truncate(self.batches.len() - small);
        self.batches.push(merged);
        Ok(())
    }
}

impl Look {
    /// Says of each key that is not marked yet whether there is such a row; `identity` are its columns. It takes as long as
    /// there are rows that nobody asked for before.
    pub(crate) fn mark(
        &self,
        keys: &[Key],
        identity: &[usize],
        found: &mut [bool],
    ) -> Result<(), Error> {
        let mut known = self.known.lock();
        let mut before = 0;
        let mut key = Vec::new();
        for batch in &self.batches {
            let rows = batch.num_rows();
            if before + rows > known.rows {
                let columns: Vec<_> =
                    identity.iter().map(|index| batch.column(*index).clone()).collect();
                let mut last = Vec::new();
                for row in known.rows - before..rows {
                    key_at(&columns, row, &mut key)?;
                    // The rows of one reading follow one another.
                    if key != last {
                        known.keys.insert(key.as_slice().into());
                        std::mem::swap(&mut key, &mut last);
                    }
                }
                known.rows = before + rows;
            }
            before += rows;
        }
        for (key, found) in keys.iter().zip(found) {
            *found |= known.keys.contains(&key.bytes);
        }
        Ok(())
    }
}
