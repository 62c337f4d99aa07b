//! The tree against two oracles (a naive recursion and the `jmt` crate) and its proofs against
//! their forgeries.

use std::collections::BTreeMap;

use bytes::Bytes;
use jmt::JellyfishMerkleTree;
use jmt::mock::MockTreeStore;
use proptest::prelude::*;

use super::*;
use crate::types::codec::Decode;
use crate::types::codec::Encode;

type State = BTreeMap<KeyHash, Vec<u8>>;

/// The domain of the `jmt` crate.
static JMT: Domain = Domain {
    leaf: b"JMT::LeafNode",
    node: b"JMT::IntrnalNode",
    empty: *b"SPARSE_MERKLE_PLACEHOLDER_HASH__",
};

/// The definition, word by word: no layout, no caching.
fn naive(domain: &Domain, leaves: &[(KeyHash, &[u8])], depth: usize) -> Subtree {
    match leaves {
        [] => domain.empty(),
        [(path, value)] => domain.leaf(&Leaf { path: *path, value: value_hash(value) }),
        many => {
            let (right, left): (Vec<_>, Vec<_>) = many.iter().partition(|l| bit(&l.0, depth));
            let children =
                [naive(domain, &left, depth + 1).hash, naive(domain, &right, depth + 1).hash];
            let hash = Digest::of(&[domain.node, &children[0], &children[1]]).0;
            match left.len() + right.len() {
                1 => unreachable!("one leaf was matched above"),
                _ => Subtree { hash, kind: Kind::Inner },
            }
        }
    }
}

fn naive_root(domain: &Domain, state: &State) -> Digest {
    let leaves: Vec<_> = state.iter().map(|(path, value)| (*path, value.as_slice())).collect();
    Digest(naive(domain, &leaves, 0).hash)
}

fn apply(tree: &mut StateTree, changes: &BTreeMap<KeyHash, Option<Vec<u8>>>) -> Digest {
    let hashed = changes.iter().map(|(path, value)| (*path, value.as_deref().map(value_hash)));
    tree.update(&mut hashed.rev().collect::<Vec<_>>())
}

/// Paths that share long prefixes as well as random ones: few free bits in a few places.
fn path() -> impl Strategy<Value = KeyHash> {
    let near = (0u8..4, 0u8..4, 0u8..4, any::<bool>()).prop_map(|(a, b, c, far)| {
        let mut path = [0; 32];
        (path[0], path[1], path[31]) = (a, b << 6, c);
        path[12] = u8::from(far);
        path
    });
    prop_oneof![near, any::<[u8; 32]>()]
}

fn changes(max: usize) -> impl Strategy<Value = BTreeMap<KeyHash, Option<Vec<u8>>>> {
    let value = prop::option::weighted(0.6, prop::collection::vec(any::<u8>(), 0..5));
    prop::collection::btree_map(path(), value, 0..max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After every batch of puts and deletes the root is that of the definition.
    #[test]
    fn root_equals_the_definition(batches in prop::collection::vec(changes(40), 1..8)) {
        let (mut tree, mut state) = (StateTree::new(), State::new());
        for batch in &batches {
            let root = apply(&mut tree, batch);
            for (path, value) in batch {
                match value {
                    Some(value) => state.insert(*path, value.clone()),
                    None => state.remove(path),
                };
            }
            prop_assert_eq!(root, naive_root(&OBELISK, &state));
            prop_assert_eq!(tree.len(), state.len());
            prop_assert_eq!(tree.is_empty(), state.is_empty());
            for (path, value) in &state {
                prop_assert_eq!(tree.value(path), Some(value_hash(value)));
            }
        }
    }

    /// Under its hash domain the tree has the roots of the `jmt` crate, deletes included.
    #[test]
    fn root_equals_the_jmt_crate(batches in prop::collection::vec(changes(30), 1..6)) {
        let store = MockTreeStore::default();
        let oracle = JellyfishMerkleTree::<_, OracleSha256>::new(&store);
        let mut tree = StateTree::with_domain(&JMT);
        for (version, batch) in (0..).zip(&batches) {
            let set = batch.iter().map(|(path, value)| (jmt::KeyHash(*path), value.clone()));
            let (root, written) = oracle.put_value_set(set, version).expect("the oracle works");
            store.write_tree_update_batch(written).expect("the mock store works");
            prop_assert_eq!(apply(&mut tree, batch).0, root.0);
        }
    }

    /// Proofs hold for present and absent keys, survive encoding, and hold for nothing else.
    #[test]
    fn proofs_hold_for_the_state_and_nothing_else(
        keys in prop::collection::btree_map(0u16..200, 0u8..3, 0..80),
        asked in prop::collection::vec(0u16..200, 1..6),
    ) {
        let at = |n: u16| StateKey {
            namespace: "asset".to_owned(),
            key: Bytes::copy_from_slice(&n.to_be_bytes()),
        };
        let mut tree = StateTree::new();
        let mut updates: Vec<Update> =
            keys.iter().map(|(n, v)| (key_hash(&at(*n)), Some(value_hash(&[*v])))).collect();
        let root = tree.update(&mut updates);
        let paths: Vec<KeyHash> = asked.iter().map(|n| key_hash(&at(*n))).collect();
        let value = |n: &u16| keys.get(n).map(|v| Bytes::copy_from_slice(&[*v]));
        let entries: Vec<_> = asked.iter().map(|n| (at(*n), value(n))).collect();
        let proof = StateProof { entries, tree: tree.prove(&paths) };
        let decoded = StateProof::from_bytes(&proof.to_bytes()).expect("it decodes");
        prop_assert_eq!(decoded.verify(&root), Ok(&proof.entries[..]));
        prop_assert!(decoded.verify(&Digest::of(&[b"another"])).is_err());
        for i in 0..asked.len() {
            let mut forged = proof.clone();
            forged.entries[i].1 = match forged.entries[i].1 {
                Some(_) => None,
                None => Some(Bytes::from_static(b"\x07")),
            };
            prop_assert!(forged.verify(&root).is_err());
            forged.entries[i].1 = Some(Bytes::from_static(b"\x09"));
            prop_assert!(forged.verify(&root).is_err());
        }
        for absent in 200..220u16 {
            let mut forged = proof.clone();
            forged.entries[0] = (at(absent), Some(Bytes::from_static(b"\x01")));
            prop_assert!(forged.verify(&root).is_err());
        }
    }

    /// Changed proof bytes never panic and never verify as something the state does not hold.
    #[test]
    fn changed_proofs_never_lie(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (tree, root) = hundred();
        let entries = vec![(numbered(5), Some(Bytes::from_static(b"5"))), (numbered(500), None)];
        let paths: Vec<KeyHash> = entries.iter().map(|(key, _)| key_hash(key)).collect();
        let proof = StateProof { entries, tree: tree.prove(&paths) };
        let mut bytes = proof.to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(changed) = StateProof::from_bytes(&bytes.into())
            && let Ok(entries) = changed.verify(&root)
        {
            for (key, value) in entries {
                let held = tree.value(&key_hash(key));
                prop_assert_eq!(held, value.as_deref().map(value_hash));
            }
        }
    }

    /// Arbitrary bytes never panic the decoder.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = StateProof::from_bytes(&bytes.clone().into());
        let nodes = bytes.iter().map(|b| b % 4).collect::<Vec<u8>>();
        let _ = ProofNode::from_bytes(&nodes.into());
    }
}

/// The `jmt` crate with this crate's SHA-256.
struct OracleSha256(Vec<u8>);

impl jmt::SimpleHasher for OracleSha256 {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    fn finalize(self) -> [u8; 32] {
        Digest::of(&[&self.0]).0
    }
}

fn numbered(n: u32) -> StateKey {
    StateKey { namespace: "n".to_owned(), key: n.to_string().into() }
}

fn hundred() -> (StateTree, Digest) {
    let mut tree = StateTree::new();
    let update = |n: u32| (key_hash(&numbered(n)), Some(value_hash(n.to_string().as_bytes())));
    let root = tree.update(&mut (0..100).map(update).collect::<Vec<_>>());
    (tree, root)
}

/// The root of a fixed state is this one on every machine, however the state came to be.
#[test]
fn root_of_a_fixed_state_is_frozen() {
    let (_, root) = hundred();
    assert_eq!(root.to_string(), FROZEN);
    let mut tree = StateTree::new();
    for n in (0..150u32).rev() {
        let value = value_hash(n.to_string().as_bytes());
        tree.update(&mut [(key_hash(&numbered(n)), Some(value))]);
    }
    for n in 100..150 {
        tree.update(&mut [(key_hash(&numbered(n)), None)]);
    }
    assert_eq!(tree.root(), root);
    assert_eq!(StateTree::new().root(), Digest::ZERO);
}

/// Twenty thousand keys: shards grow by several levels and roots stay those of the definition.
#[test]
fn growth_keeps_the_root() {
    let (mut tree, mut state) = (StateTree::new(), State::new());
    for block in 0..20u32 {
        let batch: BTreeMap<_, _> = (0..1000u32)
            .map(|n| (key_hash(&numbered(block * 1000 + n)), Some(n.to_be_bytes().to_vec())))
            .collect();
        apply(&mut tree, &batch);
        state.extend(batch.into_iter().filter_map(|(path, value)| Some((path, value?))));
    }
    assert_eq!(tree.root(), naive_root(&OBELISK, &state));
    let gone: BTreeMap<_, _> = state.keys().map(|path| (*path, None)).collect();
    assert_eq!(apply(&mut tree, &gone), Digest::ZERO);
    assert!(tree.is_empty());
}

/// A proof whose node claims a leaf off its path, or an inner node that should have collapsed, is
/// malformed even where its root is asked for.
#[test]
fn malformed_trees_are_refused() {
    let leaf = |path: u8| ProofNode::Leaf { path: Digest([path; 32]), value: Digest::ZERO };
    let off_path = ProofNode::inner(leaf(0xff), leaf(0x00));
    let uncollapsed = ProofNode::inner(leaf(0x00), ProofNode::Empty);
    let mut deep = ProofNode::inner(leaf(0), leaf(1));
    for _ in 0..300 {
        deep = ProofNode::inner(deep, ProofNode::Empty);
    }
    for tree in [off_path, uncollapsed, deep] {
        let proof = StateProof { entries: Vec::new(), tree };
        let verified = proof.verify(&Digest::ZERO);
        assert!(matches!(verified, Err(ProofError::Malformed { .. })), "{verified:?}");
    }
}

/// A path that the proof cut off proves nothing about its key.
#[test]
fn cut_paths_prove_nothing() {
    let (tree, root) = hundred();
    let proof = StateProof {
        entries: vec![(numbered(7), None)],
        tree: tree.prove(&[key_hash(&numbered(5))]),
    };
    let verified = proof.verify(&root);
    assert!(matches!(verified, Err(ProofError::WrongClaim { .. })), "{verified:?}");
}

const FROZEN: &str = "81f2603e2db27b7f8f8169f06ed227be78cfbdc78f76a145541db56b9024fb37";
