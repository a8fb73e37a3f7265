use super::*;

fn container(name: &str, verdict: i32) -> Arc<Container> {
    Arc::new(Container { name: name.into(), host: "h1".into(), verdict, ..Default::default() })
}

fn hub(objects: Vec<Arc<Container>>) -> Hub<Container> {
    let hub = Hub::new().expect("randomness");
    hub.put(None, Arc::new(objects));
    hub.set_whole();
    hub
}

fn question(position: String) -> Question {
    let (host, selection) = (String::new(), Selection::default());
    Question { id: 7, host, selection, fields: Fields::ALL, position }
}

fn shown(steps: &[Step<Container>]) -> Vec<(Kind, String)> {
    let show = |step: &Step<Container>| match step {
        Step::Object(kind, object) => (*kind, object.name.clone()),
        Step::Source(source) => (Kind::Updated, format!("{} {}", source.host, source.reached)),
    };
    steps.iter().map(show).collect()
}

fn told(kind: Kind, name: &str) -> (Kind, String) {
    (kind, name.to_owned())
}

#[test]
fn all_is_present_first_and_then_only_what_differs_is_told() {
    let hub = hub(vec![container("a", 1), container("b", 1)]);
    let all = Selection::default();
    let (steps, picture) = hub.since(&Picture::default(), &all);
    assert_eq!(shown(&steps), [told(Kind::Present, "a"), told(Kind::Present, "b")]);
    hub.put(None, Arc::new(vec![container("a", 1), container("b", 3), container("c", 1)]));
    hub.put(None, Arc::new(vec![container("a", 1), container("b", 2)]));
    let (steps, _) = hub.since(&picture, &all);
    // "c" came and went between two looks.
    assert_eq!(shown(&steps), [told(Kind::Updated, "b")]);
    // Also for one of whose picture nobody knows how it became the present one.
    let old = Picture { change: 0, ..(*picture).clone() };
    assert_eq!(shown(&hub.since(&old, &all).0), [told(Kind::Updated, "b")]);
}

#[test]
fn what_comes_to_fit_is_updated_and_what_fits_no_more_is_removed() {
    let hub = hub(vec![container("a", 3), container("b", 1), container("c", 1)]);
    let critical = Selection { verdicts: vec![3], ..Selection::default() };
    let (steps, picture) = hub.since(&Picture::default(), &critical);
    assert_eq!(shown(&steps), [told(Kind::Present, "a")]);
    hub.put(None, Arc::new(vec![container("a", 1), container("b", 3), container("c", 2)]));
    let expected = [told(Kind::Removed, "a"), told(Kind::Updated, "b")];
    assert_eq!(shown(&hub.since(&picture, &critical).0), expected);
}

#[test]
fn who_comes_back_gets_what_it_missed_or_is_told_to_begin_anew() {
    let hub = hub(vec![container("a", 1), container("b", 1)]);
    let position = hub.position(7, &hub.picture());
    hub.put(None, Arc::new(vec![container("a", 3), container("c", 1)]));
    let back = hub.told(&question(position.clone())).expect("it is known");
    let expected = [told(Kind::Updated, "a"), told(Kind::Removed, "b"), told(Kind::Updated, "c")];
    assert_eq!(shown(&hub.since(&back, &Selection::default()).0), expected);

    let refused =
        |hub: &Hub<Container>, question: &Question| hub.told(question).map(|_| ()).expect_err("it is not known").code();
    let other = Hub::new().expect("randomness");
    assert_eq!(refused(&other, &question(position.clone())), tonic::Code::OutOfRange);
    assert_eq!(refused(&hub, &question("nonsense".into())), tonic::Code::InvalidArgument);
    assert_eq!(refused(&hub, &Question { id: 8, ..question(position.clone()) }), tonic::Code::InvalidArgument);
    for round in 0..MAX_LOG {
        hub.put(None, Arc::new(vec![container("a", (round % 2) as i32)]));
    }
    assert_eq!(lock(&hub.state).log.len(), MAX_LOG);
    assert_eq!(refused(&hub, &question(position)), tonic::Code::OutOfRange);
}

#[test]
fn hosts_that_are_lost_keep_their_objects_and_are_named() {
    let hub = hub(Vec::new());
    let h2 = Some(HostId::new(2));
    hub.put(h2, Arc::new(vec![container("x", 1)]));
    let (_, picture) = hub.since(&Picture::default(), &Selection::default());
    let lost = Source { host: "h2".into(), error: "no answer".into(), ..Source::default() };
    hub.set_missing(HostId::new(2), Some(lost));
    let (steps, lost) = hub.since(&picture, &Selection::default());
    assert_eq!(shown(&steps), [told(Kind::Updated, "h2 false")]);
    // One who comes back is told who is lost now.
    let back = hub.told(&question(hub.position(7, &picture))).expect("it is known");
    assert_eq!(shown(&hub.since(&back, &Selection::default()).0), [told(Kind::Updated, "h2 false")]);
    hub.set_missing(HostId::new(2), None);
    let (steps, found) = hub.since(&lost, &Selection::default());
    assert_eq!(shown(&steps), [told(Kind::Updated, "h2 true")]);
    hub.forget(HostId::new(2));
    assert_eq!(shown(&hub.since(&found, &Selection::default()).0), [told(Kind::Removed, "x")]);
}
