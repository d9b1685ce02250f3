//! What must hold whatever the bytes: one list of properties, for cargo-fuzz (`fuzz/`) and, with seeds, for `cargo test`.
//!
//! A property takes its input as a stream of choices ([`Unstructured`]). Out of them it builds messages with the kafka-protocol crate, whose encoder and
//! decoder are not ours, breaks some of them, and asserts; so the same bytes always make the same case. A property that does not hold panics.
//!
//! Compiled for tests and for cargo-fuzz only, never into the product. It may use every room; no room may use it.
//!
//! # Replay
//! A seeded test prints the seed that fails: `DIFFLUENT_SEED=n cargo test --lib fuzzing` runs that one case. Inputs that cargo-fuzz found are in `fuzz/corpus`
//! and run with every `cargo test`.

mod answers;
mod configuration;
mod logins;
pub(crate) mod messages;
mod own_calls;
pub(crate) mod records;
mod requests;

use arbitrary::{Result, Unstructured};

/// Runs a property; input that is too short for a case is no case.
fn run(data: &[u8], property: impl FnOnce(&mut Unstructured<'_>) -> Result<()>) {
    let _ = property(&mut Unstructured::new(data));
}

/// For each target: its fuzz target's name, its seeded test's, how many cases that runs, and the property.
macro_rules! targets {
    ($($target:ident, $sentence:ident, $cases:literal, $property:path;)*) => {
        $(
            #[doc = concat!("The property `", stringify!($sentence), "`, for the choices in `data`. Panics where it does not hold.")]
            pub fn $target(data: &[u8]) {
                run(data, $property);
            }
        )*

        /// The names of all targets.
        pub const TARGETS: &[&str] = &[$(stringify!($target)),*];

        #[cfg(test)]
        mod tests {
            $(
                #[test]
                fn $sentence() {
                    super::seeded::run(stringify!($target), $cases, super::$target);
                }
            )*
        }
    };
}

targets! {
    client_frames, requests_pass_byte_for_byte_whatever_their_chunks, 5000, crate::session::fuzzing::client_frames;
    broker_frames, answers_are_the_same_whatever_their_chunks, 5000, crate::session::fuzzing::broker_frames;
    frame_length, a_frame_length_is_within_the_limits_or_refused, 5000, requests::frame_length;
    produce_request, a_produce_request_is_walked_as_the_reference_decodes_it, 5000, requests::produce_request;
    produce_answer, a_produce_answer_gives_each_partitions_offset, 5000, answers::produce_answer;
    metadata, metadata_keeps_all_but_the_addresses, 5000, answers::metadata;
    find_coordinator, find_coordinator_keeps_all_but_the_addresses, 5000, answers::find_coordinator;
    describe_cluster, describe_cluster_keeps_all_but_the_addresses_of_brokers, 5000, answers::describe_cluster;
    produce_endpoints, produce_answers_keep_all_but_the_endpoints, 5000, answers::produce_endpoints;
    fetch_endpoints, fetch_answers_keep_all_but_the_endpoints, 5000, answers::fetch_endpoints;
    share_endpoints, share_answers_keep_all_but_the_endpoints, 5000, answers::share_endpoints;
    api_versions, api_versions_are_cut_down_to_the_table, 5000, answers::api_versions;
    broken_answers, broken_answers_leak_no_address_and_never_panic, 5000, answers::broken;
    batch_header, a_batch_header_is_read_and_rewritten_as_the_reference_says, 5000, records::batch_header;
    renumber, a_renumbered_batch_holds_the_same_records_without_holes, 5000, records::renumbering;
    message_set, old_messages_are_converted_whatever_their_framing, 5000, records::message_set;
    codec, records_are_decompressed_as_the_reference_does_and_never_beyond_the_limit, 5000, records::codec;
    own_calls, an_answer_that_has_its_shape_decodes_within_its_own_size, 5000, own_calls::answer;
    login, whoever_plays_a_broker_is_not_let_in_and_hurts_nobody, 2000, logins::login;
    configuration, a_configuration_is_refused_with_a_reason_or_reads_back_the_same, 5000, configuration::any;
}

/// The properties as ordinary tests.
#[cfg(test)]
mod seeded {
    use std::path::Path;

    use super::messages::step;

    /// The most bytes of choices that a case gets.
    const CHOICES_BYTES_MAX: usize = 1024;

    /// Says which case it was when it fails.
    struct Naming(String);

    impl Drop for Naming {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{}", self.0);
            }
        }
    }

    fn choices(seed: u64) -> Vec<u8> {
        // Neighbouring seeds share no numbers.
        let mut state = seed.wrapping_mul(0xff51_afd7_ed55_8ccd);
        let bytes = step(&mut state) as usize % CHOICES_BYTES_MAX;
        (0..bytes).map(|_| step(&mut state) as u8).collect()
    }

    /// The corpus, and then `cases` seeds from a new one on; or the one seed of `DIFFLUENT_SEED`. `DIFFLUENT_CASES` runs more.
    pub(super) fn run(target: &str, cases: u64, property: fn(&[u8])) {
        let number = |name| std::env::var(name).ok().map(|value: String| value.parse::<u64>().expect("a number"));
        if let Some(seed) = number("DIFFLUENT_SEED") {
            return property(&choices(seed));
        }
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        for entry in std::fs::read_dir(corpus).into_iter().flatten().flatten() {
            let _naming = Naming(format!("{target}: the corpus's {}", entry.path().display()));
            property(&std::fs::read(entry.path()).expect("the corpus can be read"));
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        let first = now.as_micros() as u64;
        let cases = number("DIFFLUENT_CASES").unwrap_or(cases);
        println!("{target}: {cases} seeds from {first} on");
        for seed in first..first + cases {
            let _naming = Naming(format!("{target}: DIFFLUENT_SEED={seed} replays this case"));
            property(&choices(seed));
        }
    }

    #[test]
    fn every_property_is_a_fuzz_target() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("fuzz/Cargo.toml");
        for target in super::TARGETS {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is missing in fuzz/Cargo.toml");
            let file = fuzz.join(format!("fuzz_targets/{target}.rs"));
            let body = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(body.contains(&format!("fuzzing::{target}(data)")), "{}", file.display());
        }
    }
}
