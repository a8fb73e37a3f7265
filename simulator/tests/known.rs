//! What is known not to hold. When a test here fails, it has been mended: move its file to `scenarios`, and make the
//! oracle strict always.

#![allow(clippy::unwrap_used, missing_docs)]

use ringmesh_simulator::failure::Failure;

/// A partition of a few seconds heals. The minority has accused its neighbours on the other side by then, several each;
/// who is accused by more than one has no vote (`can_vote`), and so the few accusers of the minority are a majority of
/// those who are left. Whom they accuse is down for a moment, although most of the cluster heard it all the time.
#[test]
fn after_a_partition_the_minority_outvotes_hosts_of_the_majority() {
    let failure: Failure = serde_json::from_str(include_str!("known/minority-outvotes-153.json")).unwrap();
    let now = Failure::find(&failure.scenario).unwrap();
    assert_eq!(now.map(|failure| failure.oracle), Some("false-down".into()));
}
