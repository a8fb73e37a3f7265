//! Colours, by meaning.

/// What a word means to its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Look at it soon.
    Warn,
    /// Look at it now.
    Bad,
    /// Of no concern.
    Dim,
    Bold,
}

impl Style {
    /// `text` in this style, if colours are wanted.
    pub(crate) fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Dim => "2",
            Self::Bold => "1",
        };
        if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Of a state, as the API writes it.
    pub(crate) fn of_state(state: &str) -> Self {
        match state {
            "alive" | "up" | "passing" | "running" | "reachable" => Self::Good,
            "suspect" | "degraded" | "warning" | "paused" | "isolated" | "created" => Self::Warn,
            "down" | "critical" | "absent" | "stopped" | "unreachable" => Self::Bad,
            "left" | "unknown" | "none" | "info" | "-" => Self::Dim,
            _ => Self::Plain,
        }
    }
}

/// Colours only where someone sees them and nobody objects (no-color.org).
pub(crate) fn wanted(no_color_flag: bool, terminal: bool, env: impl Fn(&str) -> Option<String>) -> bool {
    let no_color = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env("TERM").is_some_and(|value| value == "dumb");
    terminal && !no_color_flag && !no_color && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anyone_can_switch_colours_off() {
        let env =
            |name: &'static str, value: &'static str| move |asked: &str| (asked == name).then(|| value.to_owned());
        assert!(wanted(false, true, env("TERM", "xterm")));
        assert!(wanted(false, true, env("NO_COLOR", "")));
        assert!(!wanted(false, true, env("NO_COLOR", "1")));
        assert!(!wanted(false, true, env("TERM", "dumb")));
        assert!(!wanted(true, true, env("TERM", "xterm")));
        assert!(!wanted(false, false, env("TERM", "xterm")));
    }

    #[test]
    fn paint_says_nothing_without_colour() {
        assert_eq!(Style::Bad.paint("down", false), "down");
        assert_eq!(Style::Bad.paint("down", true), "\x1b[31mdown\x1b[0m");
    }
}
