//! Who holds how much of the spool, and whether a tenant may take more: one that floods leaves room for the others.
//!
//! A tenant may hold up to three times as much as is left for all. So one alone gets three quarters of the spool, two
//! get three sevenths each, and however many there are, something is left for whoever comes next.

use std::collections::HashMap;
use std::sync::Arc;

/// How many times what is left a tenant may hold.
const TIMES_LEFT: u64 = 3;

/// Whom a file of the spool counts for: its tenant, or its database as long as nobody has said whose that is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Holder {
    Tenant(Arc<str>),
    Database(i64),
}

/// The most that one tenant may take of so many bytes that are left.
pub(super) fn most_of(left: u64) -> u64 {
    left / (1 + TIMES_LEFT) * TIMES_LEFT
}

/// Bytes in the spool, by who holds them. Databases go by their number in the state.
#[derive(Debug, Default)]
pub(super) struct Shares {
    total: u64,
    of_database: HashMap<i64, u64>,
    of_holder: HashMap<Holder, u64>,
    tenants: HashMap<i64, Arc<str>>,
}

impl Shares {
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn add(&mut self, id: i64, bytes: u64) {
        self.total += bytes;
        *self.of_database.entry(id).or_default() += bytes;
        *self.of_holder.entry(self.holder(id)).or_default() += bytes;
    }

    /// No more than what was added.
    pub fn subtract(&mut self, id: i64, bytes: u64) {
        let bytes = bytes.min(self.of_database.get(&id).copied().unwrap_or(0));
        self.total -= bytes;
        take(&mut self.of_database, &id, bytes);
        let holder = self.holder(id);
        take(&mut self.of_holder, &holder, bytes);
    }

    /// Says whose a database is.
    pub fn belongs_to(&mut self, id: i64, tenant: &Arc<str>) {
        if self.tenants.get(&id).is_some_and(|known| known == tenant) {
            return;
        }
        let bytes = self.of_database.get(&id).copied().unwrap_or(0);
        let before = self.holder(id);
        take(&mut self.of_holder, &before, bytes);
        self.tenants.insert(id, tenant.clone());
        if bytes > 0 {
            *self.of_holder.entry(self.holder(id)).or_default() += bytes;
        }
    }

    /// A database's files are gone for good.
    pub fn forget(&mut self, id: i64) {
        let bytes = self.of_database.get(&id).copied().unwrap_or(0);
        self.subtract(id, bytes);
        self.tenants.remove(&id);
    }

    /// What the tenant of a database holds.
    pub fn held_with(&self, id: i64) -> u64 {
        self.of_holder.get(&self.holder(id)).copied().unwrap_or(0)
    }

    /// Whether the tenant of a database may take so many bytes, with `left` for all before that.
    pub fn may_take(&self, id: i64, bytes: u64, left: u64) -> bool {
        let after = left.saturating_sub(bytes);
        after > 0 && self.held_with(id).saturating_add(bytes) <= after.saturating_mul(TIMES_LEFT)
    }

    fn holder(&self, id: i64) -> Holder {
        match self.tenants.get(&id) {
            Some(tenant) => Holder::Tenant(tenant.clone()),
            None => Holder::Database(id),
        }
    }
}

/// Nobody is kept who holds nothing.
fn take<K: std::hash::Hash + Eq>(held: &mut HashMap<K, u64>, key: &K, bytes: u64) {
    if let Some(has) = held.get_mut(key) {
        *has = has.saturating_sub(bytes);
        if *has == 0 {
            held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 10_000;
    const PIECE: u64 = 10;

    /// Each of `floods` takes piece after piece in turn until none gets another.
    fn flooded(shares: &mut Shares, floods: &[i64]) {
        let mut goes_on = true;
        while std::mem::take(&mut goes_on) {
            for &id in floods {
                if shares.may_take(id, PIECE, LIMIT - shares.total()) {
                    shares.add(id, PIECE);
                    goes_on = true;
                }
            }
        }
    }

    #[test]
    fn however_many_flood_there_is_room_for_one_more() {
        for count in 1..=50 {
            let mut shares = Shares::default();
            let floods: Vec<i64> = (1..=count).collect();
            flooded(&mut shares, &floods);
            let each = LIMIT * TIMES_LEFT / (1 + TIMES_LEFT * count as u64);
            for &id in &floods {
                let held = shares.held_with(id);
                assert!(held.abs_diff(each) <= 2 * PIECE, "{held} of {each}");
            }
            assert!(shares.may_take(count + 1, PIECE, LIMIT - shares.total()));
        }
    }

    #[test]
    fn a_tenant_with_many_databases_has_one_share() {
        let mut shares = Shares::default();
        // Those of an earlier run, before it was said whose they are.
        (1..=3).for_each(|id| shares.add(id, 2_600));
        assert!(shares.may_take(1, PIECE, LIMIT - shares.total()));
        (1..=3).for_each(|id| shares.belongs_to(id, &"acme".into()));
        assert_eq!(shares.held_with(2), 7_800);
        assert!(!shares.may_take(1, PIECE, LIMIT - shares.total()));
        shares.belongs_to(4, &"quiet".into());
        assert!(shares.may_take(4, PIECE, LIMIT - shares.total()));
    }

    #[test]
    fn one_piece_never_takes_what_is_left_for_others() {
        let shares = Shares::default();
        assert!(shares.may_take(1, most_of(LIMIT), LIMIT));
        for bytes in [most_of(LIMIT) + 4, LIMIT, u64::MAX] {
            assert!(!shares.may_take(1, bytes, LIMIT), "{bytes}");
        }
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut shares = Shares::default();
        shares.add(1, 70);
        shares.belongs_to(1, &"acme".into());
        shares.add(2, 30);
        shares.subtract(1, 20);
        assert_eq!((shares.total(), shares.held_with(1)), (80, 50));
        shares.forget(1);
        shares.subtract(2, 30);
        assert_eq!((shares.total(), shares.held_with(1)), (0, 0));
        assert!(shares.of_database.is_empty() && shares.of_holder.is_empty());
        assert!(shares.tenants.is_empty());
    }
}
