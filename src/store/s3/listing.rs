//! What the pages of a listing come to. A server may go on giving pages for ever, by a defect or in bad faith: neither
//! memory nor time is given without an end.

use crate::store::StoreError;

/// Far more than a replica has: a segment each second for 30 days is 2.6 million objects.
const MOST: usize = 5_000_000;
/// Pages have up to 1,000 entries; some servers give fewer.
const MOST_PAGES: usize = 1_000_000;

/// Entries of a listing, page by page.
pub(super) struct Listing<T> {
    /// What was listed, as errors name it.
    named: String,
    found: Vec<T>,
    pages: usize,
    most: usize,
    most_pages: usize,
}

impl<T> Listing<T> {
    pub fn new(named: String) -> Self {
        Self {
            named,
            found: Vec::new(),
            pages: 0,
            most: MOST,
            most_pages: MOST_PAGES,
        }
    }

    /// # Errors
    /// `Failed` where it does not come to an end.
    pub fn add_page(&mut self, page: impl Iterator<Item = T>) -> Result<(), StoreError> {
        self.pages += 1;
        self.found.extend(page);
        if self.found.len() <= self.most && self.pages <= self.most_pages {
            return Ok(());
        }
        Err(StoreError::Failed {
            key: self.named.clone(),
            reason: format!(
                "its listing does not end after {} entries on {} pages; a replica never has so many, so look at what lies there, or at the server",
                self.found.len(),
                self.pages
            ),
        })
    }

    pub fn found(self) -> Vec<T> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Listing<u32> {
        Listing {
            most: 10,
            most_pages: 5,
            ..Listing::new("databases/x/".to_owned())
        }
    }

    #[test]
    fn a_listing_without_an_end_is_refused_by_name() {
        let mut many = small();
        many.add_page(0..10).expect("as many as there may be");
        let error = many.add_page(0..1).expect_err("one more");
        assert!(
            error
                .to_string()
                .starts_with("databases/x/: its listing does not end")
        );
        assert!(!error.is_retryable());

        let mut empty = small();
        for _ in 0..5 {
            empty.add_page(std::iter::empty()).expect("not too many");
        }
        assert!(empty.add_page(std::iter::empty()).is_err(), "for ever");
    }

    #[test]
    fn what_ends_is_given_whole() {
        let mut listing = small();
        listing.add_page(0..4).expect("a page");
        listing.add_page(4..6).expect("another");
        assert_eq!(listing.found(), [0, 1, 2, 3, 4, 5]);
    }
}
