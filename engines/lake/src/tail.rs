use std::collections::BTreeMap;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;

use crate::Error;
use crate::rows::{Identities, Rows};

/// Rows that were accepted and are not yet in Delta, with the offsets that they reach.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) rows: usize,
    pub(crate) offsets: BTreeMap<String, u64>,
    keys: Identities,
}

/// As many small batches at the end become one: appends of a single row must not cost a batch each.
const SMALL_BATCHES: usize = 32;
const SMALL_ROWS: usize = 4_096;

impl Tail {
    pub(crate) fn push(&mut self, source: &str, offset: u64, rows: Rows) -> Result<(), Error> {
        if !rows.is_empty() {
            let (batch, keys) = rows.finish()?;
            self.rows += batch.num_rows();
            self.batches.push(batch);
            self.keys.extend(keys);
            self.merge_small()?;
        }
        self.offsets.insert(source.to_owned(), offset);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.keys.contains(key)
    }

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
