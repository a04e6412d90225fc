//! When a listing is complete, and how one goes on that is not. Servers cut listings without saying so, give no token or
//! the same one again, and leave out what was asked for: a listing counts as complete only where all of it agrees.

use std::collections::BTreeMap;

use crate::store::StoreError;

/// Far more than a replica has: a segment each second for 30 days is 2.6 million objects.
const MOST: usize = 5_000_000;
/// Pages have up to 1,000 entries; some servers give fewer.
const MOST_PAGES: usize = 1_000_000;
/// Pages one after the other that have nothing and say that there is more.
const MOST_EMPTY: usize = 1_000;
/// Entries of a page, where the server does not say another number.
const FULL_PAGE: usize = 1_000;

/// What to ask for next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    Start,
    Token(String),
    /// What comes after this key, since the server says that there is more and gives no token.
    After(String),
    /// What comes after this key, though the server says that there is nothing.
    Confirm(String),
}

/// An entry of a page, before anything of it is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry<T> {
    /// The whole key, or the whole common prefix with its slash.
    pub key: String,
    /// What it is to the caller, by name; none for what is nobody's.
    pub found: Option<(String, T)>,
}

/// A page as the server gave it.
#[derive(Clone, Debug)]
pub(super) struct Page<T> {
    pub objects: Vec<Entry<T>>,
    pub folders: Vec<Entry<T>>,
    pub is_truncated: Option<bool>,
    pub token: Option<String>,
    pub key_count: Option<i32>,
    pub max_keys: Option<i32>,
}

/// A listing under way.
pub(super) struct Listing<T> {
    /// What is listed, as errors name it.
    named: String,
    /// What every key has to begin with.
    start: String,
    /// Whether a server that says that this is all is asked once more.
    confirms: bool,
    found: BTreeMap<String, T>,
    last: Option<String>,
    is_last_a_folder: bool,
    entries: usize,
    pages: usize,
    empty: usize,
    /// The last page said that it is the end, in a way that can't be relied on.
    is_doubtful: bool,
    most: usize,
    most_pages: usize,
}

impl<T> Listing<T> {
    pub fn new(named: String, start: String, confirms: bool) -> Self {
        Self {
            named,
            start,
            confirms,
            found: BTreeMap::new(),
            last: None,
            is_last_a_folder: false,
            entries: 0,
            pages: 0,
            empty: 0,
            is_doubtful: false,
            most: MOST,
            most_pages: MOST_PAGES,
        }
    }

    /// Takes the answer to `ask` in; what to ask for next, and none where the listing is complete.
    ///
    /// # Errors
    /// `Incomplete` for a page that contradicts itself, or another one, or what was asked for; `Failed` where the listing
    /// does not come to an end.
    pub fn add_page(&mut self, ask: &Ask, page: Page<T>) -> Result<Option<Ask>, StoreError> {
        self.pages += 1;
        let count = page.objects.len() + page.folders.len();
        self.entries += count;
        self.check_end()?;
        let Some(is_truncated) = page.is_truncated else {
            return Err(self.incomplete("a page does not say whether it is the last"));
        };
        if page.key_count.is_some_and(|said| said > count as i32) {
            return Err(self.incomplete("a page has fewer keys than it says"));
        }
        let is_full = count >= FULL_PAGE
            || page
                .max_keys
                .is_some_and(|most| most > 0 && count >= most as usize);
        if matches!(ask, Ask::Confirm(_)) && self.repeats(&page) {
            // A server that does not know `start-after`. What it says of the end is all there is to go by.
            return match self.is_doubtful || is_truncated {
                true => Err(self.incomplete("the server ignores start-after")),
                false => Ok(None),
            };
        }
        let before = self.last.clone();
        self.add(page.objects, before.as_deref(), false)?;
        self.add(page.folders, before.as_deref(), true)?;
        let is_new = self.last != before;
        self.empty = if is_new { 0 } else { self.empty + 1 };
        if is_truncated {
            return self.next(ask, page.token, is_new).map(Some);
        }
        self.is_doubtful = is_full || page.token.is_some();
        let is_asked_again = matches!(ask, Ask::Confirm(_)) && !is_new;
        Ok(match self.resumed_at() {
            Some(last) if (self.confirms || self.is_doubtful) && !is_asked_again => {
                Some(Ask::Confirm(last))
            }
            _ => None,
        })
    }

    /// How a listing goes on of which the server says that there is more.
    fn next(&self, ask: &Ask, token: Option<String>, is_new: bool) -> Result<Ask, StoreError> {
        if self.empty > MOST_EMPTY {
            return Err(self.incomplete("there is more again and again, and nothing comes"));
        }
        match (token.filter(|token| !token.is_empty()), ask) {
            (Some(token), Ask::Token(before)) if token == *before => {
                Err(self.incomplete("the server repeats a continuation token"))
            }
            (Some(token), _) => Ok(Ask::Token(token)),
            (None, _) => match self.resumed_at().filter(|_| is_new) {
                Some(last) => Ok(Ask::After(last)),
                None => Err(self.incomplete("there is more, and the server does not give it")),
            },
        }
    }

    /// Whether a page has nothing but what was there before.
    fn repeats(&self, page: &Page<T>) -> bool {
        let mut entries = page.objects.iter().chain(&page.folders).peekable();
        let is_known = |entry: &Entry<T>| {
            let found = entry.found.as_ref();
            Some(entry.key.as_str()) <= self.last.as_deref()
                && found.is_none_or(|(name, _)| self.found.contains_key(name))
        };
        entries.peek().is_some() && entries.all(is_known)
    }

    /// Adds entries, which have to be in order, and after what came with the pages before.
    fn add(
        &mut self,
        entries: Vec<Entry<T>>,
        before: Option<&str>,
        are_folders: bool,
    ) -> Result<(), StoreError> {
        let mut previous = before.map(str::to_owned);
        for Entry { key, found } in entries {
            if !key.starts_with(&self.start) {
                return Err(self.incomplete("the server ignores the prefix"));
            }
            // A folder that a page ends in may begin the next one.
            let follows = match &previous {
                Some(previous) if are_folders => *previous <= key,
                Some(previous) => *previous < key,
                None => true,
            };
            if !follows {
                return Err(self.incomplete("its keys are not in order, or come twice"));
            }
            if self.last.as_ref().is_none_or(|last| *last < key) {
                self.last = Some(key.clone());
                self.is_last_a_folder = are_folders;
            }
            previous = Some(key);
            if let Some((name, found)) = found {
                self.found.insert(name, found);
            }
        }
        Ok(())
    }

    /// The key after which the rest comes; all of a folder is behind us.
    fn resumed_at(&self) -> Option<String> {
        let last = self.last.as_deref()?;
        let folder = last.strip_suffix('/').filter(|_| self.is_last_a_folder);
        Some(match folder {
            // The character after the slash: no folder lies in between.
            Some(folder) => format!("{folder}0"),
            None => last.to_owned(),
        })
    }

    fn check_end(&self) -> Result<(), StoreError> {
        if self.entries <= self.most && self.pages <= self.most_pages {
            return Ok(());
        }
        Err(StoreError::Failed {
            key: self.named.clone(),
            reason: format!(
                "its listing does not end after {} entries on {} pages; a replica never has so many, so look at what lies there, or at the server",
                self.entries, self.pages
            ),
        })
    }

    fn incomplete(&self, reason: &str) -> StoreError {
        StoreError::Incomplete {
            key: self.named.clone(),
            reason: reason.to_owned(),
        }
    }

    /// What was found, ordered by name.
    pub fn found(self) -> BTreeMap<String, T> {
        self.found
    }
}

#[cfg(test)]
mod tests;
