//! The source's log is cut by an unclean election, and written anew.

use bytes::Bytes;
use tokio::time::Instant;

use super::tests::{World, ends, read, send_one, with_two_read};
use super::{FetchWhy, SourceView, Taken};
use crate::mirror::batch::tests::{CLIENT, bytes_of};
use crate::mirror::batch::{Feed, fetched};
use crate::wire::batch::Identity;

#[test]
fn a_stream_whose_source_was_cut_reads_what_lies_there_now_though_nobody_tells_of_it() {
    let now = Instant::now();
    let mut stream = with_two_read(now, 5);
    send_one(&mut stream, now);
    send_one(&mut stream, now);
    // Offsets 2 to 4 are lost, and 2 and 3 written anew.
    stream.on_source(SourceView { leader: 2, leader_epoch: 1, end: 4, keeps_epochs: true }, now);
    stream.on_epoch_end(stream.wants_epoch_check().expect("a newer epoch"), 2);
    let looks_at = stream.wants_fetch().expect("it looks what lies there").offset;
    let log = bytes_of(2, 2, 20, 1, CLIENT);
    stream.on_fetched(looks_at, fetched(log, looks_at, now), Vec::new(), ends(4), now);
    stream.leave_draining(now);
    assert_eq!(stream.take_diverged_records(), Some(3));
    stream.on_committed(stream.position());
    let want = stream.wants_fetch().map(|want| (want.offset, want.why));
    assert_eq!(want, Some((2, FetchWhy::CatchUp)), "{:?}", stream.phase());
}

#[test]
fn a_batch_of_the_same_shape_and_time_that_was_appended_later_is_not_taken_for_the_one_before() {
    let now = Instant::now();
    let lies_there = |leader_epoch: i32, identity: Identity| {
        let mut bytes = bytes_of(2, 3, 20, 0, identity).to_vec();
        bytes[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
        Bytes::from(bytes)
    };
    let of = |base_sequence| Identity { producer_id: 7, producer_epoch: 0, base_sequence };
    // How many records the region has that the source has lost, where this was taken, and that lies there once a new leader's log is cut to offset 2.
    let lost = |feed: Feed, taken: Bytes, there: Bytes| {
        let mut stream = World::new(1).stream;
        stream.on_source(SourceView { leader: 1, leader_epoch: 0, end: 5, keeps_epochs: true }, now);
        for bytes in [bytes_of(0, 2, 20, 0, CLIENT), taken] {
            match feed {
                Feed::Capture => {
                    stream.on_captured(read(&bytes, feed, now), 1, true, now);
                }
                Feed::CatchUp => {
                    let from = stream.next_offset;
                    stream.on_fetched(from, fetched(bytes, from, now), Vec::new(), ends(5), now);
                }
            }
        }
        send_one(&mut stream, now);
        send_one(&mut stream, now);
        stream.on_source(SourceView { leader: 2, leader_epoch: 1, end: 5, keeps_epochs: true }, now);
        stream.on_epoch_end(stream.wants_epoch_check().expect("a newer epoch"), 2);
        stream.on_fetched(2, fetched(there, 2, now), Vec::new(), ends(5), now);
        stream.leave_draining(now);
        stream.take_diverged_records()
    };
    let (read_from_log, captured) = (Feed::CatchUp, Feed::Capture);
    assert_eq!(lost(read_from_log, lies_there(0, CLIENT), lies_there(1, CLIENT)), Some(3), "by the leader's epoch");
    assert_eq!(lost(captured, lies_there(0, of(4)), lies_there(1, of(9))), Some(3), "by the producer's sequence");
    // The leader that was heard of late had appended it itself.
    assert_eq!(lost(captured, lies_there(0, of(4)), lies_there(1, of(4))), None);
    assert_eq!(lost(read_from_log, lies_there(1, CLIENT), lies_there(1, CLIENT)), None);
}

#[test]
fn what_is_held_behind_a_gap_is_not_taken_from_a_log_that_was_cut_in_front_of_it() {
    let now = Instant::now();
    let mut stream = with_two_read(now, 5);
    // Offsets 5 and 6 are an open transaction's; behind them a batch is captured.
    assert_eq!(stream.on_captured(read(&bytes_of(7, 3, 20, 0, CLIENT), Feed::Capture, now), 1, true, now), Taken::Kept);
    // All of that is lost, and other batches come to lie there.
    stream.on_source(SourceView { leader: 2, leader_epoch: 1, end: 9, keeps_epochs: true }, now);
    stream.on_epoch_end(stream.wants_epoch_check().expect("a newer epoch"), 5);
    stream.on_fetched(5, fetched(bytes_of(5, 2, 20, 0, CLIENT), 5, now), Vec::new(), ends(9), now);
    assert_eq!(stream.next_offset, 7, "what lies at 7 now is still to come");
    stream.on_fetched(7, fetched(bytes_of(7, 1, 20, 0, CLIENT), 7, now), Vec::new(), ends(9), now);
    assert_eq!(stream.next_offset, 8);
}
