//! Step `captures`: of all captures of a URL the newest stays; of those with the same date the last in order.

use super::pages::Capture;
use super::parts::Account;
use super::plan::file_name;
use super::{Job, Step};
use crate::error::Error;
use crate::exchange::record;

record! {
    /// A page that goes because there is a newer capture of its URL.
    Older by document {
        /// The page.
        document: u64,
        date: String,
        /// Date of the capture that stays.
        stays: String,
    }
}

/// Compares the captures of a part of all URLs.
pub fn reduce(job: &Job, k: usize) -> Result<Account, Error> {
    let mut rows = job.read::<Capture>(&[(Step::Pages, "captures.parquet")], job.part(k))?;
    let mut older = job.writer(0.5)?;
    // Rows of one URL follow each other by date, and two URLs may share the first half of a hash.
    let mut captures: Vec<Capture> = Vec::new();
    while let Some(first) = rows.next_row()? {
        let key = first.key;
        let mut next = Some(first);
        while let Some(row) = next {
            if captures.last().is_some_and(|last| last.second_half != row.second_half) {
                keep_last(&mut captures, &mut older)?;
            }
            captures.push(row);
            next = rows.next_of(key)?;
        }
        keep_last(&mut captures, &mut older)?;
    }
    older.finish(&file_name(Step::Captures, k, "older.parquet"))?;
    Ok(Account::default())
}

fn keep_last(captures: &mut Vec<Capture>, older: &mut crate::exchange::Writer<Older>) -> Result<(), Error> {
    let Some(newest) = captures.pop() else { return Ok(()) };
    for Capture { document, date, .. } in captures.drain(..) {
        older.push(Older { document, date, stays: newest.date.clone() })?;
    }
    Ok(())
}
