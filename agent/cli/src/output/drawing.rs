//! The two rings as text: a closed line of hosts while it fits, wrapped rows otherwise, then the chords.
//!
//! A link is measured from both ends; what is drawn between two hosts is the worse of what they say.

use std::collections::BTreeMap;

use ringmesh_proto::v1::{Link, ListRingsResponse, Ring, link::State};

use super::{style::Style, table::printable, time};
use crate::natural::Natural;

/// Rings of so many hosts show each round trip, larger ones the range.
const MAX_HOSTS_WITH_TIMES: usize = 12;

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Canvas {
    pub(crate) color: bool,
    /// Columns.
    pub(crate) width: usize,
    /// Every round trip, at any size.
    pub(crate) wide: bool,
}

/// Rings, chords, and a line for each link that is not up.
pub(crate) fn draw(rings: &ListRingsResponse, canvas: Canvas) -> String {
    let links = Links::of(&rings.links);
    let mut out = String::new();
    for ring in &rings.rings {
        out += &draw_ring(ring, &links, canvas);
        out.push('\n');
    }
    out += &draw_chords(&links, canvas);
    out += &draw_troubles(&rings.links, canvas);
    out += &draw_restoring(&rings.links, canvas);
    if rings.rings.is_empty() {
        out += "no rings\n";
    }
    out.trim_end().to_owned() + "\n"
}

/// What is known of the link between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    state: State,
    rtt_us: u32,
}

impl Seen {
    const NOTHING: Self = Self { state: State::Unknown, rtt_us: 0 };

    /// The worse of two, with a round trip if either has one.
    fn and(self, other: Self) -> Self {
        let state = if badness(other.state) > badness(self.state) { other.state } else { self.state };
        Self { state, rtt_us: if self.rtt_us > 0 { self.rtt_us } else { other.rtt_us } }
    }

    fn has_time(self) -> bool {
        self.rtt_us > 0 && matches!(self.state, State::Up | State::Degraded)
    }
}

fn badness(state: State) -> u8 {
    match state {
        State::Unknown => 0,
        State::Up => 1,
        State::Degraded => 2,
        State::Down => 3,
    }
}

/// By role and the two hosts.
struct Links<'a>(BTreeMap<(&'a str, &'a str, &'a str), Seen>);

impl<'a> Links<'a> {
    fn of(links: &'a [Link]) -> Self {
        let mut seen: BTreeMap<_, Seen> = BTreeMap::new();
        for link in links {
            let this = Seen { state: link.state(), rtt_us: link.rtt_us };
            let key = (link.role.as_str(), link.from.as_str(), link.to.as_str());
            seen.entry(key).and_modify(|other| *other = other.and(this)).or_insert(this);
        }
        Self(seen)
    }

    fn between(&self, role: &str, one: &str, other: &str) -> Seen {
        let get = |from, to| self.0.get(&(role, from, to)).copied().unwrap_or(Seen::NOTHING);
        get(one, other).and(get(other, one))
    }

    /// The pairs of hosts with a chord, each once.
    fn chords(&self) -> Vec<(&'a str, &'a str)> {
        let ends = self.0.keys().filter(|(role, ..)| *role == "chord").map(|(_, from, to)| (*from, *to));
        let mut chords: Vec<_> =
            ends.map(|(a, b)| if Natural::of(&[a]) <= Natural::of(&[b]) { (a, b) } else { (b, a) }).collect();
        chords.sort_by_cached_key(|(a, b)| Natural::of(&[a, b]));
        chords.dedup();
        chords
    }
}

/// Text that knows how wide it is.
#[derive(Clone, Debug, Default)]
struct Text {
    painted: String,
    width: usize,
}

impl Text {
    fn add(&mut self, text: &str, style: Style, color: bool) {
        self.painted += &style.paint(text, color);
        self.width += text.chars().count();
    }

    fn append(&mut self, other: &Text) {
        self.painted += &other.painted;
        self.width += other.width;
    }
}

fn draw_ring(ring: &Ring, links: &Links<'_>, canvas: Canvas) -> String {
    let hosts: Vec<String> = ring.hosts.iter().map(|host| printable(host)).collect();
    let role = format!("ring-{}", ring.name);
    // Of two hosts there is one link, of one host none.
    let count = if hosts.len() > 2 { hosts.len() } else { hosts.len().saturating_sub(1) };
    let seen: Vec<Seen> =
        (0..count).map(|i| links.between(&role, &ring.hosts[i], &ring.hosts[(i + 1) % hosts.len()])).collect();

    let mut out = Style::Bold.paint(&format!("ring {}", printable(&ring.name)), canvas.color);
    out += &format!("  {}, {}: {}\n", printable(&ring.mode), hosts_count(hosts.len()), summary(&seen));
    let times = canvas.wide || hosts.len() <= MAX_HOSTS_WITH_TIMES;
    out += &match hosts.as_slice() {
        [] => "  nobody is in it\n".to_owned(),
        [only] => format!("  {only}, alone\n"),
        [one, other] => {
            let mut line = Text::default();
            line.add(one, Style::Plain, canvas.color);
            line.append(&mark(seen[0], times, canvas.color));
            line.add(other, Style::Plain, canvas.color);
            format!("  {}\n", line.painted)
        }
        _ => {
            let marks: Vec<Text> = seen.iter().map(|seen| mark(*seen, times, canvas.color)).collect();
            closed(&hosts, &marks, canvas).unwrap_or_else(|| wrapped(&hosts, &marks, times, canvas))
        }
    };
    out
}

/// A loop on two lines, if it fits.
fn closed(hosts: &[String], marks: &[Text], canvas: Canvas) -> Option<String> {
    let mut line = Text::default();
    for (host, mark) in hosts.iter().zip(marks) {
        line.add(host, Style::Plain, canvas.color);
        line.append(mark);
    }
    // Before it "  ╭─ ", after it "─╮" in place of a space.
    if line.width + 6 > canvas.width {
        return None;
    }
    let back = Style::Dim.paint(&format!("╰{}╯", "─".repeat(line.width + 2)), canvas.color);
    let (left, right) = (Style::Dim.paint("╭─", canvas.color), Style::Dim.paint("─╮", canvas.color));
    let line = line.painted.trim_end();
    Some(format!("  {left} {line}{right}\n  {back}\n"))
}

/// Rows that are read one after the other; the last leads back to the first host.
fn wrapped(hosts: &[String], marks: &[Text], times: bool, canvas: Canvas) -> String {
    let widest = hosts.iter().map(|host| host.chars().count()).max().unwrap_or(0);
    let mut rows = vec![Text::default()];
    for (host, mark) in hosts.iter().zip(marks) {
        let mut piece = Text::default();
        piece.add(host, Style::Plain, canvas.color);
        if !times {
            // All marks are as wide as each other then, and the hosts stand in columns.
            piece.add(&" ".repeat(widest - host.chars().count()), Style::Plain, canvas.color);
        }
        piece.append(mark);
        let row = rows.last().map_or(0, |row| row.width);
        if row > 0 && 5 + row + piece.width > canvas.width {
            rows.push(Text::default());
        }
        if let Some(row) = rows.last_mut() {
            row.append(&piece);
        }
    }
    if let (Some(row), Some(first)) = (rows.last_mut(), hosts.first()) {
        row.add(first, Style::Dim, canvas.color);
    }
    let last = rows.len() - 1;
    let line = |(i, row): (usize, &Text)| {
        let bracket = if i == 0 {
            "╭─"
        } else if i == last {
            "╰─"
        } else {
            "│ "
        };
        format!("  {} {}\n", Style::Dim.paint(bracket, canvas.color), row.painted.trim_end())
    };
    rows.iter().enumerate().map(line).collect()
}

/// What stands between two hosts: " ── ", " ─ 210µs ─ ", " ─╳─ ".
fn mark(seen: Seen, times: bool, color: bool) -> Text {
    let style = state_style(seen.state);
    let mut mark = Text::default();
    let time = time::duration(std::time::Duration::from_micros(seen.rtt_us.into()));
    let text = match seen.state {
        State::Up if times && seen.has_time() => format!("─ {time} ─"),
        State::Up => "───".to_owned(),
        State::Degraded if times && seen.has_time() => format!("~ {time} ~"),
        State::Degraded => "─~─".to_owned(),
        State::Down => "─╳─".to_owned(),
        State::Unknown => "┄┄┄".to_owned(),
    };
    mark.add(" ", Style::Plain, color);
    mark.add(&text, style, color);
    mark.add(" ", Style::Plain, color);
    mark
}

fn state_style(state: State) -> Style {
    match state {
        State::Up => Style::Good,
        State::Degraded => Style::Warn,
        State::Down => Style::Bad,
        State::Unknown => Style::Dim,
    }
}

fn draw_chords(links: &Links<'_>, canvas: Canvas) -> String {
    let chords = links.chords();
    if chords.is_empty() {
        return String::new();
    }
    let seen: Vec<Seen> = chords.iter().map(|(a, b)| links.between("chord", a, b)).collect();
    let mut out = Style::Bold.paint("chords", canvas.color);
    out += &format!("  {}\n", summary(&seen));
    let mut row = Text::default();
    for ((a, b), seen) in chords.iter().zip(&seen) {
        let mut piece = Text::default();
        piece.add(&printable(a), Style::Plain, canvas.color);
        piece.append(&mark(*seen, canvas.wide || chords.len() <= MAX_HOSTS_WITH_TIMES, canvas.color));
        piece.add(&printable(b), Style::Plain, canvas.color);
        if row.width > 0 && 2 + row.width + 3 + piece.width > canvas.width {
            out += &format!("  {}\n", row.painted);
            row = Text::default();
        }
        if row.width > 0 {
            row.add("   ", Style::Plain, canvas.color);
        }
        row.append(&piece);
    }
    out + &format!("  {}\n\n", row.painted)
}

/// What each end says of the links that are not up.
fn draw_troubles(links: &[Link], canvas: Canvas) -> String {
    let mut bad: Vec<&Link> =
        links.iter().filter(|link| matches!(link.state(), State::Degraded | State::Down)).collect();
    if bad.is_empty() {
        return String::new();
    }
    bad.sort_by_cached_key(|link| (Natural::of(&[&link.from, &link.to]), link.uplink.clone()));
    let mut out = Style::Bold.paint("not up", canvas.color) + "\n";
    for link in bad {
        let state = state_style(link.state()).paint(link.state().as_str_name(), canvas.color);
        let (from, to, uplink) = (printable(&link.from), printable(&link.to), printable(&link.uplink));
        let pair = match (link.pair_broken, link.via.as_str()) {
            (false, _) => String::new(),
            (true, "") => "; the two do not hear each other, and nobody can pass messages on".to_owned(),
            (true, via) => format!("; the two do not hear each other, messages go by {}", printable(via)),
        };
        out += &format!("  {from} to {to} over {uplink}: {state}, {} % lost{pair}\n", link.loss_percent);
    }
    out
}

/// The uplinks that are well again and not trusted yet.
fn draw_restoring(links: &[Link], canvas: Canvas) -> String {
    let now = jiff::Timestamp::now();
    let mut uplinks: BTreeMap<(Natural, &str), String> = BTreeMap::new();
    for link in links {
        let text = time::restoring(now, link.restored_at.as_ref());
        if !text.is_empty() {
            let line = format!("  {} uplink {}: {text}\n", printable(&link.from), printable(&link.uplink));
            uplinks.insert((Natural::of(&[&link.from]), link.uplink.as_str()), line);
        }
    }
    if uplinks.is_empty() {
        return String::new();
    }
    Style::Bold.paint("restoring", canvas.color) + "\n" + &uplinks.into_values().collect::<String>()
}

fn hosts_count(count: usize) -> String {
    if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") }
}

/// "4 links up, 1 down, 180µs to 2.1ms"
fn summary(seen: &[Seen]) -> String {
    let mut parts = Vec::new();
    for (state, word) in
        [(State::Up, "up"), (State::Degraded, "degraded"), (State::Down, "down"), (State::Unknown, "not measured")]
    {
        let count = seen.iter().filter(|seen| seen.state == state).count();
        match (count, parts.is_empty()) {
            (0, _) => {}
            (1, true) => parts.push(format!("1 link {word}")),
            (_, true) => parts.push(format!("{count} links {word}")),
            (_, false) => parts.push(format!("{count} {word}")),
        }
    }
    if parts.is_empty() {
        return "no links".to_owned();
    }
    let times = || seen.iter().filter(|seen| seen.has_time()).map(|seen| u64::from(seen.rtt_us));
    if let (Some(least), Some(most)) = (times().min(), times().max()) {
        let [least, most] = [least, most].map(|us| time::duration(std::time::Duration::from_micros(us)));
        parts.push(if least == most { least } else { format!("{least} to {most}") });
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(name: &str, hosts: &[&str]) -> Ring {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Ring { name: name.into(), mode: "switched".into(), hosts }
    }

    fn link(role: &str, from: &str, to: &str, state: State, rtt_us: u32) -> Link {
        let (role, from, to, uplink) = (role.into(), from.into(), to.into(), "a".into());
        let loss_percent = if state == State::Down { 100 } else { 0 };
        Link { role, from, to, uplink, state: state.into(), rtt_us, loss_percent, ..Default::default() }
    }

    fn plain(rings: Vec<Ring>, links: Vec<Link>, width: usize) -> String {
        let rings = ListRingsResponse { rings, links, ..Default::default() };
        draw(&rings, Canvas { color: false, width, wide: false })
    }

    #[test]
    fn a_small_ring_is_closed_and_shows_round_trips() {
        let links = vec![
            link("ring-a", "h1", "h2", State::Up, 210),
            link("ring-a", "h2", "h3", State::Down, 900),
            // The other end sees no harm: the worse counts.
            link("ring-a", "h3", "h2", State::Up, 200),
            link("ring-a", "h4", "h3", State::Degraded, 1500),
            link("chord", "h3", "h1", State::Up, 190),
            link("chord", "h1", "h3", State::Up, 180),
        ];
        assert_eq!(
            plain(vec![ring("a", &["h1", "h2", "h3", "h4"])], links, 80),
            "\
ring a  switched, 4 hosts: 1 link up, 1 degraded, 1 down, 1 not measured, 210µs to 1.5ms
  ╭─ h1 ─ 210µs ─ h2 ─╳─ h3 ~ 1.5ms ~ h4 ┄┄┄─╮
  ╰──────────────────────────────────────────╯

chords  1 link up, 180µs
  h1 ─ 180µs ─ h3

not up
  h2 to h3 over a: down, 100 % lost
  h4 to h3 over a: degraded, 0 % lost
"
        );
    }

    #[test]
    fn a_broken_pair_names_the_host_by_which_messages_go() {
        let broken =
            |via: &str| Link { pair_broken: true, via: via.into(), ..link("ring-a", "h1", "h2", State::Down, 0) };
        let text = |via| plain(vec![ring("a", &["h1", "h2", "h3"])], vec![broken(via)], 80);
        assert!(text("h3").contains("100 % lost; the two do not hear each other, messages go by h3\n"));
        assert!(text("").contains("nobody can pass messages on\n"));
    }

    #[test]
    fn an_uplink_that_restores_is_named_once() {
        let at = jiff::Timestamp::now().as_second() + 100;
        let restored_at = Some(prost_types::Timestamp { seconds: at, nanos: 0 });
        let links = ["h1", "h3"].map(|to| Link { restored_at, ..link("ring-a", "h2", to, State::Up, 100) });
        let text = plain(vec![ring("a", &["h1", "h2", "h3"])], links.to_vec(), 80);
        let (_, below) = text.split_once("restoring\n").expect("it is named");
        assert_eq!(below.lines().count(), 1, "{text}");
        assert!(below.starts_with("  h2 uplink a: restoring, ") && below.ends_with(" s left\n"), "{text}");
        let over =
            Link { restored_at: Some(prost_types::Timestamp::default()), ..link("ring-a", "h2", "h1", State::Up, 1) };
        assert!(!plain(vec![ring("a", &["h1", "h2", "h3"])], vec![over], 80).contains("restoring"));
    }

    #[test]
    fn a_large_ring_wraps_in_columns() {
        let names: Vec<String> = (1..=64).map(|n| format!("h{n}")).collect();
        let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut links: Vec<Link> =
            (0..64).map(|i| link("ring-b", hosts[i], hosts[(i + 1) % 64], State::Up, 100)).collect();
        links[20].state = State::Down.into();
        let text = plain(vec![ring("b", &hosts)], links, 80);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ring b  switched, 64 hosts: 63 links up, 1 down, 100µs");
        assert_eq!(lines[1], "  ╭─ h1  ─── h2  ─── h3  ─── h4  ─── h5  ─── h6  ─── h7  ─── h8  ─── h9  ───");
        assert!(lines[3].contains("h21 ─╳─ h22"), "{text}");
        assert_eq!(lines[8], "  ╰─ h64 ─── h1");
        assert!(lines[1..9].iter().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn the_smallest_rings() {
        assert_eq!(plain(vec![ring("a", &["h1"])], vec![], 80), "ring a  switched, 1 host: no links\n  h1, alone\n");
        assert_eq!(
            plain(vec![ring("a", &["h1", "h2"])], vec![], 80),
            "ring a  switched, 2 hosts: 1 link not measured\n  h1 ┄┄┄ h2\n"
        );
        assert_eq!(plain(vec![], vec![], 80), "no rings\n");
    }
}
