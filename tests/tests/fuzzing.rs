//! The fuzz targets of `fuzz/` on a bounded number of inputs: the seeds, what once failed, seeds
//! with changes, and noise. `docs/fuzzing.md` says how to look for longer.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

type Target = (&'static str, fn(&[u8]), Vec<Vec<u8>>);

/// How many changed inputs each target gets.
const CASES: u32 = 1500;
/// The most bytes that a target may hold at a time for an input of at most [`LONGEST`] bytes: the
/// largest thing that may be announced and is made room for at once is a frame or an extended
/// header of 1 MiB, and readers double their buffers.
const MEMORY: usize = 8 << 20;
/// The longest input made here, in bytes.
const LONGEST: usize = 256 << 10;

/// Counts what the current thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    let held = HELD.get() + change;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: all is left to the system's allocator. Counters of plain numbers allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // While it is copied there are both.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as the caller has promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a target, and checks how much memory it held.
fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    let before = HELD.get();
    PEAK.set(before);
    target(input);
    let most = (PEAK.get() - before) as usize;
    assert!(most <= MEMORY, "{name} held {most} bytes for an input of {}", input.len());
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    /// A number where a number may be: 1 to 8 bytes, either end first.
    Number(Index, u64, usize, bool),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Bytes of it once more, at another place.
    Repeat(Index, Index, usize),
    Cut(Index),
    /// The rest comes from another input.
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let numbers =
        select(vec![0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX]);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), numbers, 1usize..9, any::<bool>()).prop_map(|(at, n, width, big)| Change::Number(at, n, width, big)),
        (at(), vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1usize..600).prop_map(|(at, count)| Change::Remove(at, count)),
        (at(), at(), 1usize..600).prop_map(|(from, to, count)| Change::Repeat(from, to, count)),
        at().prop_map(Change::Cut),
        (at(), at(), at()).prop_map(|(at, other, from)| Change::Splice(at, other, from)),
    ]
}

fn changed(mut input: Vec<u8>, changes: &[Change], all: &[Vec<u8>]) -> Vec<u8> {
    for change in changes {
        let length = input.len();
        let place = |at: &Index| at.index(length + 1);
        match change {
            Change::Set(at, byte) if length > 0 => input[at.index(length)] = *byte,
            Change::Flip(at, bit) if length > 0 => input[at.index(length)] ^= 1 << bit,
            Change::Set(..) | Change::Flip(..) => {}
            Change::Number(at, number, width, big) => {
                let bytes = if *big { &number.to_be_bytes()[8 - width..] } else { &number.to_le_bytes()[..*width] };
                let at = place(at);
                let end = (at + width).min(length);
                input[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Change::Insert(at, bytes) => drop(input.splice(place(at)..place(at), bytes.iter().copied())),
            Change::Remove(at, count) => drop(input.drain(place(at)..(place(at) + count).min(length))),
            Change::Repeat(from, to, count) => {
                let bytes = input[place(from)..(place(from) + count).min(length)].to_vec();
                input.splice(place(to)..place(to), bytes);
            }
            Change::Cut(at) => input.truncate(place(at)),
            Change::Splice(at, other, from) => {
                input.truncate(place(at));
                let other = &all[other.index(all.len())];
                input.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

/// What is in `fuzz/regressions/<name>`: inputs that once failed.
fn regressions(name: &str) -> Vec<Vec<u8>> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions").join(name);
    let files = fs::read_dir(folder).into_iter().flatten();
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

fn check(targets: Vec<Target>) {
    for (name, target, mut seeds) in targets {
        assert!(!seeds.is_empty(), "{name} has no seeds");
        seeds.extend(regressions(name));
        seeds.push(Vec::new());
        // The first call makes what stays, such as a runtime.
        target(&[]);
        for seed in &seeds {
            run(name, target, seed);
        }
        // Inputs do not differ from run to run: a failure is one of the change that is tested.
        let configuration = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
        let mut runner = TestRunner::new_with_rng(configuration, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let inputs = prop_oneof![
            12 => (select(seeds.clone()), vec(change(), 1..8)).prop_map(move |(seed, changes)| changed(seed, &changes, &seeds)),
            1 => vec(any::<u8>(), 0..2000),
        ];
        let outcome = runner.run(&inputs, |input| {
            run(name, target, &input);
            Ok(())
        });
        if let Err(failure) = outcome {
            panic!("{name}: {failure}");
        }
    }
}

#[test]
fn agent_fuzz_targets_survive_seeds_and_mutations() {
    check(banger_agent::fuzzing::targets());
}

#[test]
fn image_fuzz_targets_survive_seeds_and_mutations() {
    check(banger_image::fuzzing::targets());
}

#[test]
fn git_fuzz_targets_survive_seeds_and_mutations() {
    check(banger::git::fuzzing::targets());
}
