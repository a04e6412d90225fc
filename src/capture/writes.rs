//! Which bytes of a database's file were written since it was last compared as a whole: known where the daemon sees
//! every write, as it does while the kernel passes none through. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::ltx::lock_page;

/// So many stretches are kept apart; with more of them the whole file is compared, and counting begins anew.
const STRETCHES: usize = 4096;

/// All bytes that may differ from the captured state.
#[derive(Debug, Default)]
pub(super) struct Writes {
    is_known: bool,
    /// None was missed since the whole file was begun to be read.
    is_counting: bool,
    /// Start and end of each stretch; no two of them touch.
    stretches: BTreeMap<u64, u64>,
    /// Grows with each write.
    moment: u64,
}

impl Writes {
    /// Bytes were written, or may have changed otherwise.
    pub fn note(&mut self, bytes: Range<u64>) {
        self.moment += 1;
        if !self.is_known && !self.is_counting {
            return;
        }
        let Range { mut start, mut end } = bytes;
        while let Some((&before, &to)) = self.stretches.range(..=end).next_back()
            && to >= start
        {
            self.stretches.remove(&before);
            (start, end) = (start.min(before), end.max(to));
        }
        self.stretches.insert(start, end);
        if self.stretches.len() > STRETCHES {
            self.lose();
        }
    }

    /// A write may have been missed: only the whole file tells.
    pub fn lose(&mut self) {
        (self.is_known, self.is_counting) = (false, false);
        self.stretches.clear();
        self.moment += 1;
    }

    /// The whole file is going to be read. `all_seen`: nobody writes it unseen.
    pub fn begin_whole(&mut self, all_seen: bool) {
        self.lose();
        self.is_counting = all_seen;
    }

    /// The whole file was read, and the captured state is that.
    pub fn end_whole(&mut self) {
        self.is_known = self.is_counting;
    }

    /// Whether something is known to have been written.
    pub fn is_pending(&self) -> bool {
        self.is_known && !self.stretches.is_empty()
    }

    /// How many bytes of a file of that size were written, and the moment at which this is true; none where only the
    /// whole file tells.
    pub fn known(&self, size: u64) -> Option<(u64, u64)> {
        let clipped = |at: u64| at.min(size);
        let bytes = self.stretches.iter();
        let bytes = bytes.map(|(start, end)| clipped(*end) - clipped(*start));
        self.is_known.then(|| (bytes.sum(), self.moment))
    }

    /// The pages, ascending, of a database of `pages` pages that may differ from its captured state of `before` pages.
    pub fn pages(&self, page_size: u32, before: u32, pages: u32) -> Vec<u32> {
        let size = u64::from(page_size);
        let lock = lock_page(page_size);
        let mut found: Vec<u32> = (before + 1..=pages).collect();
        for (&start, &end) in &self.stretches {
            // The last page has a number that is a u32.
            let first = (start / size + 1).min(u64::from(pages) + 1) as u32;
            let last = end.div_ceil(size).min(u64::from(pages)) as u32;
            found.extend(first..=last);
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|pgno| *pgno != lock);
        found
    }

    /// What was written up to `moment` is in the captured state. What came later keeps all of it.
    pub fn compared(&mut self, moment: u64) {
        if self.moment == moment {
            self.stretches.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted() -> Writes {
        let mut writes = Writes::default();
        writes.begin_whole(true);
        writes.end_whole();
        writes
    }

    #[test]
    fn what_was_written_is_known_by_its_pages() {
        let mut writes = counted();
        assert!(!writes.is_pending());
        for bytes in [4096..8192, 20480..20481, 8192..12288, 0..1, 100..200] {
            writes.note(bytes);
        }
        assert_eq!(writes.stretches.len(), 4);
        assert_eq!(writes.pages(4096, 10, 10), [1, 2, 3, 6]);
        assert_eq!(
            writes.pages(4096, 4, 5),
            [1, 2, 3, 5],
            "and what it grew by"
        );
        // Cut to two pages, and grown again.
        writes.note(8192..u64::MAX);
        assert_eq!(writes.pages(4096, 5, 4), [1, 2, 3, 4]);
        assert_eq!(writes.pages(4096, 5, 1), [1]);
        assert_eq!(
            writes.known(16384).map(|(bytes, _)| bytes),
            Some(1 + 100 + 12288)
        );
    }

    #[test]
    fn stretches_that_touch_are_one() {
        let mut writes = counted();
        for bytes in [10..20, 30..40, 50..60, 15..55, 60..70, 5..10] {
            writes.note(bytes);
        }
        assert_eq!(writes.stretches, BTreeMap::from([(5, 70)]));
    }

    #[test]
    fn the_page_of_the_lock_byte_is_never_compared() {
        let mut writes = counted();
        writes.note(0..u64::MAX);
        let pages = writes.pages(65536, 16380, 16390);
        assert_eq!(pages.len(), 16389);
        assert!(!pages.contains(&16385));
    }

    #[test]
    fn what_is_written_during_a_comparison_is_of_the_next_one() {
        let mut writes = counted();
        writes.note(0..10);
        let (_, moment) = writes.known(u64::MAX).expect("known");
        writes.note(0..10);
        writes.compared(moment);
        assert!(writes.is_pending());
        let (_, moment) = writes.known(u64::MAX).expect("known");
        writes.compared(moment);
        assert!(!writes.is_pending());
    }

    #[test]
    fn a_write_that_is_missed_while_the_file_is_read_leaves_nothing_known() {
        let mut writes = Writes::default();
        writes.note(0..10);
        assert!(writes.known(u64::MAX).is_none());
        writes.begin_whole(false);
        writes.end_whole();
        assert!(
            writes.known(u64::MAX).is_none(),
            "somebody writes it unseen"
        );
        writes.begin_whole(true);
        writes.note(0..10);
        assert!(writes.known(u64::MAX).is_none(), "it is being read");
        writes.end_whole();
        assert!(writes.is_pending());
        writes.begin_whole(true);
        writes.lose();
        writes.end_whole();
        assert!(writes.known(u64::MAX).is_none());
        // With too many stretches it is not known either.
        let mut writes = counted();
        (0..=STRETCHES as u64).for_each(|at| writes.note(2 * at..2 * at + 1));
        assert!(writes.known(u64::MAX).is_none());
    }
}
