use proptest::prelude::*;
use ringmesh_node::health::spec::ContainerSpec;
use ringmesh_proto::v1::verdict::Value;

use super::*;

fn container(name: &str, verdict: i32) -> Arc<Container> {
    let labels = [("tier".to_owned(), "web".to_owned())].into();
    Arc::new(Container { name: name.into(), host: "h1".into(), verdict, labels, pid: 7, ..Default::default() })
}

fn row(name: &str, verdict: Value) -> Arc<ContainerRow> {
    let labels = Arc::new([("tier".to_owned(), "web".to_owned())].into());
    let spec = ContainerSpec { name: name.into(), labels, ..ContainerSpec::default() };
    Arc::new(ContainerRow { host: "h1".into(), spec: spec.into(), verdict, changed: 1, ..ContainerRow::default() })
}

fn names<T: Detail>(page: &Page<T>) -> Vec<&str> {
    page.items.iter().map(|item| item.key().0).collect()
}

#[test]
fn fields_are_copied_by_name_and_unknown_ones_are_named() {
    let all = container("web", 3);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let fields = Fields::named::<Container>(&names(&["verdict"])).expect("a field");
    let expected = Container { name: "web".into(), host: "h1".into(), verdict: 3, ..Default::default() };
    assert_eq!(all.pick(fields), expected);
    assert_eq!(all.pick(Fields::named::<Container>(&[]).expect("all")), *all);
    let error = Fields::named::<Container>(&names(&["pid", "labels.tier"])).expect_err("no such field");
    assert!(error.to_string().starts_with("a container has no field \"labels.tier\"; it has name, host, tenant"));
    assert!(Container::FIELDS.len() <= 64 && Service::FIELDS.len() <= 64);
}

#[test]
fn pages_go_on_where_the_last_one_ended_whatever_came_and_went() {
    let items: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| row(name, Value::Passing)).into();
    let selection = Selection { limit: 2, ..Selection::default() };
    let first = select::<Container>(&items, &selection, None, None, Fields::ALL);
    assert_eq!((names(&first), first.cut), (vec!["a", "b"], true));
    let last = first.last("z").expect("more follow");
    assert_eq!((last.zone.as_str(), last.host.as_str(), last.container.as_str()), ("z", "h1", "b"));
    let later: Vec<_> = ["a", "aa", "c", "d"].map(|name| row(name, Value::Passing)).into();
    let next = select::<Container>(&later, &selection, None, Some(("b", "")), Fields::ALL);
    assert_eq!((names(&next), next.cut, next.last("z")), (vec!["c", "d"], false, None));
}

#[test]
fn filters_select_and_what_does_not_match_is_no_next_page() {
    let items: Vec<_> =
        (0..10).map(|n| row(&format!("c{n}"), if n == 4 { Value::Critical } else { Value::Passing })).collect();
    let critical = Selection { verdicts: vec![3], limit: 1, ..Selection::default() };
    let page = select::<Container>(&items, &critical, None, None, Fields::ALL);
    assert_eq!((names(&page), page.cut), (vec!["c4"], false));
    let one = Selection { container: "c7".into(), ..Selection::default() };
    assert_eq!(names(&select::<Container>(&items, &one, None, None, Fields::ALL)), ["c7"]);
    let labels = [("tier".to_owned(), "db".to_owned())].into();
    let none = Selection { labels, ..Selection::default() };
    assert!(select::<Container>(&items, &none, None, None, Fields::ALL).items.is_empty());
}

#[test]
fn a_page_has_a_bound_in_bytes() {
    let large = |name: &str| Container { name: name.into(), problem: "x".repeat(MAX_PAGE_BYTES), ..Default::default() };
    let mut page = Page::new(10);
    ["a", "b"].into_iter().for_each(|name| page.push(large(name)));
    assert_eq!((page.items.len(), page.cut), (1, true));
    assert_eq!(Page::<Container>::new(u32::MAX).missing() as usize, MAX_PAGE);
}

#[test]
fn what_is_shown_again_is_shared_with_what_was_shown() {
    let old = vec![row("a", Value::Passing), row("c", Value::Passing), row("d", Value::Passing)];
    let shown = show::<Container>(&[], &[], &old);
    let new = vec![old[0].clone(), row("b", Value::Passing), row("c", Value::Critical), old[2].clone()];
    let again = show(&old, &shown, &new);
    assert_eq!(again.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    let shared = |at: usize, before: usize| Arc::ptr_eq(&again[at], &shown[before]);
    assert!(shared(0, 0) && shared(3, 2) && !shared(2, 1));
    assert_eq!(again[2].verdict(), Value::Critical);
}

#[test]
fn times_and_latencies_alone_are_no_change() {
    let service = |last_answer: &str, verdict| {
        vec![Arc::new(Service { name: "http".into(), last_answer: last_answer.into(), verdict, ..Default::default() })]
    };
    let count = |old: &[Arc<Service>], new: &[Arc<Service>]| {
        let mut count = 0;
        changes(old, new, |_, _| count += 1);
        count
    };
    assert_eq!(count(&service("a", 1), &service("b", 1)), 0);
    assert_eq!(count(&service("a", 1), &service("a", 2)), 1);
}

#[test]
fn what_changed_since_makes_of_a_list_what_it_became() {
    let old: Vec<_> = ["a", "b", "c"].map(|name| container(name, 1)).into();
    let mut rows: Vec<_> = ["a", "c", "d"].map(|name| row(name, Value::Passing)).into();
    for (at, changed) in [(1, 5), (2, 6)] {
        rows[at] = ContainerRow { verdict: Value::Critical, changed, ..ContainerRow::clone(&rows[at]) }.into();
    }
    let page = select::<Container>(&rows, &Selection::default(), Some(4), None, Fields::ALL);
    assert_eq!(names(&page), ["c", "d"]);
    let new = update(&old, &["b".to_owned()].into(), page.items);
    let told = |object: &Arc<Container>| (object.name.clone(), object.verdict());
    let expected = [("a", Value::Passing), ("c", Value::Critical), ("d", Value::Critical)];
    assert_eq!(new.iter().map(told).collect::<Vec<_>>(), expected.map(|(name, verdict)| (name.to_owned(), verdict)));
    assert!(Arc::ptr_eq(&old[0], &new[0]), "it is shared");
}

proptest! {
    #[test]
    fn changes_lead_from_the_old_list_to_the_new_one(
        old in prop::collection::btree_map("[a-d]{1,2}", 0..3, 0..12),
        new in prop::collection::btree_map("[a-d]{1,2}", 0..3, 0..12),
    ) {
        let list = |map: &std::collections::BTreeMap<String, i32>| -> Vec<Arc<Container>> {
            map.iter().map(|(name, verdict)| container(name, *verdict)).collect()
        };
        let mut made = old.clone();
        changes(&list(&old), &list(&new), |before, after| {
            assert_eq!(before.map(|before| before.verdict), before.and_then(|before| old.get(&before.name).copied()));
            assert_ne!(before, after);
            match (before, after) {
                (_, Some(after)) => drop(made.insert(after.name.clone(), after.verdict)),
                (Some(before), None) => drop(made.remove(&before.name)),
                (None, None) => unreachable!(),
            }
        });
        assert_eq!(made, new);
    }

    #[test]
    fn all_pages_together_are_the_list(count in 0usize..50, limit in 1u32..9) {
        let items: Vec<_> = (0..count).map(|n| row(&format!("c{n:02}"), Value::Passing)).collect();
        let selection = Selection { limit, ..Selection::default() };
        let (mut seen, mut after) = (Vec::new(), None::<Position>);
        loop {
            let key = after.as_ref().map(|after| (after.container.as_str(), after.service.as_str()));
            let page = select::<Container>(&items, &selection, None, key, Fields::ALL);
            after = page.last("z");
            seen.extend(page.items.into_iter().map(|item| item.name));
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, items.iter().map(|item| item.spec.name.clone()).collect::<Vec<_>>());
    }
}
