//! P-256 signatures under keys that sign much: two look-ups in tables instead of one long walk.
//!
//! ```text
//! w = 1/s,  u1 = e w,  u2 = r w;   valid:  x([u1]G + [u2]Q) = r  (mod n)       FIPS 186-5, 6.4.2
//! ```
//!
//! A library spends most of a check on `[u2]Q`, a point it has never seen. For a key that signs
//! every few milliseconds its multiples are worth computing once: both products are then sums of
//! table entries, as in the fixed-base method of Brickell, Gordon, McCurley and Wilson (1992). The
//! inversions of a group are done together (Montgomery's trick). Tables and curve arithmetic are a
//! provider's (`Provider::table`); here is the equation, and who has a table.
//!
//! A key earns its table by `KEY_TABLE_AFTER_CHECKS` checks; at most `KEY_TABLES_MAX` keys have one,
//! the least recently used gives way. So a flood of keys costs a bounded share of each check. What
//! the equation refuses is asked again from the library: a no, which may also be a failure of the
//! library, is never one implementation's word alone. Numbers here are public; nothing needs to
//! take constant time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use lru::LruCache;
use p256::Scalar;
use p256::U256;
use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::ops::Invert;
use p256::elliptic_curve::ops::Reduce;

use crate::crypto::KeyTable;
use crate::crypto::prepared::PreparedCheck;
use crate::crypto::prepared::PreparedKey;
use crate::types::digest::Digest;
use crate::types::limits;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// Computes the tables of a key: `Provider::table`.
pub type Make = fn(&PublicKey) -> Option<KeyTable>;

/// A key's table, once it has one.
#[derive(Default)]
pub struct Slot {
    /// Checks since the key is here or its table gave way.
    checks: AtomicU32,
    table: RwLock<Option<Arc<KeyTable>>>,
}

impl Slot {
    fn get(&self) -> Option<Arc<KeyTable>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, table: Option<Arc<KeyTable>>) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }
}

/// Who has a table.
pub struct KeyTables {
    make: Make,
    /// Keys with a table; least recently used out.
    slots: Mutex<LruCache<PublicKey, Arc<Slot>>>,
    made: AtomicU64,
}

impl KeyTables {
    /// No tables yet, `most` of them at a time.
    pub fn new(make: Make, most: NonZeroUsize) -> Self {
        Self { make, slots: Mutex::new(LruCache::new(most)), made: AtomicU64::new(0) }
    }

    /// The key's table, if it has one, counting `checks` more with that key. The check that earns it
    /// computes it, in the calling thread.
    pub fn of(&self, key: &PreparedKey, checks: usize) -> Option<Arc<KeyTable>> {
        let slot = key.table_slot()?;
        if let Some(table) = slot.get() {
            self.slots().promote(key.public());
            return Some(table);
        }
        let checks = u32::try_from(checks).unwrap_or(u32::MAX);
        let before = slot.checks.fetch_add(checks, Ordering::Relaxed);
        let earned = limits::KEY_TABLE_AFTER_CHECKS;
        if before >= earned || before.saturating_add(checks) < earned {
            return None;
        }
        // Outside the lock: other keys need not wait for it.
        let table = Arc::new((self.make)(key.public())?);
        self.made.fetch_add(1, Ordering::Relaxed);
        slot.set(Some(table.clone()));
        if let Some((_, old)) = self.slots().push(key.public().clone(), slot.clone())
            && !Arc::ptr_eq(&old, slot)
        {
            old.set(None);
            old.checks.store(0, Ordering::Relaxed);
        }
        Some(table)
    }

    /// Tables in memory.
    pub fn len(&self) -> usize {
        self.slots().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tables computed since the start.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn slots(&self) -> MutexGuard<'_, LruCache<PublicKey, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A check whose key has a table.
pub struct Tabled<'a> {
    /// Place in the caller's list.
    pub place: usize,
    /// The check.
    pub check: PreparedCheck<'a>,
    /// The key's table.
    pub table: Arc<KeyTable>,
}

/// Pushes the places of those that are not valid, in order, and returns how many were asked again
/// from the library.
pub fn find_invalid(group: &[Tabled<'_>], invalid: &mut Vec<usize>) -> u64 {
    let mut numbers: Vec<Scalar> = Vec::with_capacity(group.len());
    let mut terms = Vec::with_capacity(group.len());
    for tabled in group {
        let PreparedCheck { key, signature, .. } = tabled.check;
        match scalars(signature).filter(|_| key.accepts_bytes_of(signature)) {
            Some([r, s]) => {
                numbers.push(s);
                terms.push((tabled, r));
            }
            None => invalid.push(tabled.place),
        }
    }
    // Never none of them: s is not zero, by the byte rules.
    let inverses = inverses(&numbers).unwrap_or_default();
    let mut rechecked = 0;
    for (at, (tabled, r)) in terms.into_iter().enumerate() {
        let check = &tabled.check;
        let holds =
            inverses.get(at).is_some_and(|w| equation_holds(&tabled.table, check.message, r, *w));
        if !holds {
            rechecked += 1;
            if !check.key.verify(check.message, check.signature).valid {
                invalid.push(tabled.place);
            }
        }
    }
    rechecked
}

/// One signature in the accepted form, by the table alone.
pub(super) fn accepts(table: &KeyTable, message: &[u8], signature: &Signature) -> bool {
    let Some([r, s]) = scalars(signature) else { return false };
    inverses(&[s]).is_some_and(|w| equation_holds(table, message, r, w[0]))
}

/// The inverses of numbers that are not zero, by one inversion and three multiplications each.
fn inverses(numbers: &[Scalar]) -> Option<Vec<Scalar>> {
    let mut product = Scalar::ONE;
    let mut inverses = Vec::with_capacity(numbers.len());
    for number in numbers {
        inverses.push(product);
        product *= number;
    }
    let mut inverse: Scalar = Option::from(product.invert_vartime())?;
    for (number, place) in numbers.iter().zip(&mut inverses).rev() {
        *place *= inverse;
        inverse *= number;
    }
    Some(inverses)
}

/// r and s, where they are below n.
fn scalars(signature: &Signature) -> Option<[Scalar; 2]> {
    let (r, s) = signature.0.split_at(32);
    let scalar = |bytes: &[u8]| -> Option<Scalar> {
        let bytes: [u8; 32] = bytes.try_into().expect("32 of 64 bytes");
        Scalar::from_repr(bytes.into()).into()
    };
    Some([scalar(r)?, scalar(s)?])
}

fn equation_holds(table: &KeyTable, message: &[u8], r: Scalar, w: Scalar) -> bool {
    let reduced = |bytes: [u8; 32]| <Scalar as Reduce<U256>>::reduce_bytes(&bytes.into());
    let e = reduced(Digest::of(&[message]).0);
    let (first, second) = ((e * w).to_bytes(), (r * w).to_bytes());
    table(&first.into(), &second.into()).is_some_and(|x| reduced(x) == r)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::known_answers::Example;
    use crate::crypto::providers::portable;
    use crate::types::signature::Algorithm;

    /// A table that knows no sum.
    const FAILING: Make = |_| Some(Box::new(|_, _| None));

    fn key(secret: u8) -> PreparedKey {
        let secret = p256::SecretKey::from_slice(&[secret; 32]).unwrap();
        let public = p256::EncodedPoint::from(secret.public_key());
        let public = PublicKey::new(Algorithm::EcdsaP256, public.as_bytes()).unwrap();
        PreparedKey::new(&portable::PROVIDER, &public)
    }

    /// Aim: a key earns its table by checks, once; the least recently used gives way and must earn
    /// it again; never are there more than the limit.
    #[test]
    fn tables_are_earned_and_give_way() {
        let tables = KeyTables::new(FAILING, NonZeroUsize::new(2).unwrap());
        let keys = [1, 2, 3].map(key);
        let earned = limits::KEY_TABLE_AFTER_CHECKS as usize;
        assert!(tables.of(&keys[0], earned - 1).is_none());
        assert!(tables.of(&keys[0], 1).is_some());
        assert!(tables.of(&keys[1], 2 * earned).is_some());
        assert!(tables.of(&keys[0], 1).is_some(), "used last");
        assert_eq!((tables.len(), tables.made()), (2, 2));
        assert!(tables.of(&keys[2], earned).is_some());
        assert!(tables.of(&keys[0], 1).is_some(), "still there");
        assert!(tables.of(&keys[1], 1).is_none(), "gave way");
        assert!(tables.of(&keys[1], earned - 2).is_none(), "and begins anew");
        assert!(tables.of(&keys[1], 1).is_some());
        assert_eq!((tables.len(), tables.made()), (2, 4));
    }

    /// Aim: the same key parsed again takes its place over; the table of the old object is freed.
    #[test]
    fn a_key_has_one_table() {
        let tables = KeyTables::new(FAILING, NonZeroUsize::new(2).unwrap());
        let (old, new) = (key(1), key(1));
        let earned = limits::KEY_TABLE_AFTER_CHECKS as usize;
        assert!(tables.of(&old, earned).is_some());
        assert!(tables.of(&new, earned).is_some());
        assert!(tables.of(&old, 1).is_none());
        assert_eq!(tables.len(), 1);
    }

    /// Aim: shared inversions are those of each number alone; a zero has none.
    #[test]
    fn inverses_are_inverses() {
        let numbers: Vec<Scalar> =
            (1u64..9).map(|n| Scalar::from(n * n * n).invert().unwrap()).collect();
        let found = inverses(&numbers).unwrap();
        for (number, inverse) in numbers.iter().zip(found) {
            assert_eq!(*number * inverse, Scalar::ONE);
        }
        assert_eq!(inverses(&[Scalar::ONE, Scalar::ZERO]), None);
        assert_eq!(inverses(&[]), Some(vec![]));
    }

    /// Aim: keys for which no table can be had do without, for ever and at no cost.
    #[test]
    fn without_tables_nothing_changes() {
        let tables = KeyTables::new(|_| None, NonZeroUsize::MIN);
        let earned = limits::KEY_TABLE_AFTER_CHECKS as usize;
        assert!(tables.of(&key(1), earned).is_none());
        assert!(tables.is_empty());
        let example = Example::of(Algorithm::Ed25519);
        let ed25519 = PreparedKey::new(&portable::PROVIDER, &example.public);
        assert!(KeyTables::new(FAILING, NonZeroUsize::MIN).of(&ed25519, earned).is_none());
    }

    /// Aim: where the arithmetic fails, valid signatures stay valid: the library is asked.
    #[test]
    fn a_failing_table_refuses_nothing() {
        let example = Example::of(Algorithm::EcdsaP256);
        let key = PreparedKey::new(&portable::PROVIDER, &example.public);
        let table = Arc::new(FAILING(&example.public).unwrap());
        let mut forged = example.signature;
        forged.0[40] ^= 1;
        let group = [&example.signature, &forged].map(|signature| Tabled {
            place: usize::from(signature == &forged),
            check: PreparedCheck { key: &key, message: example.message, signature },
            table: table.clone(),
        });
        let mut invalid = Vec::new();
        assert_eq!(find_invalid(&group, &mut invalid), 2);
        assert_eq!(invalid, [1]);
    }
}
