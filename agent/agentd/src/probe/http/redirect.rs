//! Where a redirect leads. Names are not looked up: a probe stays with its container's addresses.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ringmesh_node::health::spec::HttpCheck;
use tonic::transport::Uri;

/// The most bytes of a Location that are looked at.
const MAX_LOCATION: usize = 2048;

/// What is asked of whom.
pub(super) struct Target<'a> {
    pub(super) address: SocketAddr,
    /// As in the header Host.
    pub(super) host: String,
    pub(super) path: String,
    pub(super) method: &'a str,
    pub(super) with_body: bool,
}

impl<'a> Target<'a> {
    /// Of the first request.
    pub(super) fn first(check: &'a HttpCheck) -> Self {
        let own = check.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let named = check.tls.as_ref().map(|tls| &tls.name).filter(|name| name.parse::<IpAddr>().is_err());
        let host = own.map(|(_, host)| host).or(named);
        Self {
            address: check.address,
            host: host.cloned().unwrap_or_else(|| check.address.to_string()),
            path: check.path.clone(),
            method: &check.method,
            with_body: true,
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.address, self.path)
    }
}

/// Whether an answer of this status is followed to where it leads.
pub(super) fn follows(check: &HttpCheck, status: u16) -> bool {
    check.redirects > 0 && matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The next request, after those `visited` before `target`; why there is none, in words.
pub(super) fn next<'a>(
    check: &'a HttpCheck,
    target: &Target<'a>,
    visited: &mut Vec<String>,
    status: u16,
    location: Option<&[u8]>,
) -> Result<Target<'a>, String> {
    let location = location.ok_or_else(|| format!("HTTP {status} without a Location"))?;
    let text = str::from_utf8(location).ok().filter(|text| text.len() <= MAX_LOCATION && text.is_ascii());
    let text = text.ok_or_else(|| format!("HTTP {status} with a Location that is too long or not of ASCII"))?;
    let mut next = resolve(check, target, text.split('#').next().unwrap_or_default())?;
    if matches!(status, 301..=303) && target.method != "HEAD" {
        (next.method, next.with_body) = ("GET", false);
    }
    visited.push(target.to_string());
    if visited.contains(&next.to_string()) {
        return Err(format!("redirects in a loop: {} → {next}", visited.join(" → ")));
    }
    if visited.len() > usize::from(check.redirects) {
        return Err(format!("more than {} redirects: {} → {next}", check.redirects, visited.join(" → ")));
    }
    Ok(next)
}

fn resolve<'a>(check: &HttpCheck, from: &Target<'a>, location: &str) -> Result<Target<'a>, String> {
    let malformed = || format!("redirects to \"{}\", which is no address", location.escape_debug());
    let next = |address, host, path: &str| Target {
        address,
        host,
        path: path.into(),
        method: from.method,
        with_body: from.with_body,
    };
    let (rest, scheme) = match location.split_once("://") {
        Some((scheme, rest)) => (rest, Some(scheme)),
        None => match location.strip_prefix("//") {
            Some(rest) => (rest, None),
            None => {
                let path = if location.starts_with('/') { location.to_owned() } else { sibling(&from.path, location) };
                let path: Uri = path.parse().map_err(|_| malformed())?;
                let path = path.path_and_query().ok_or_else(malformed)?.as_str();
                return Ok(next(from.address, from.host.clone(), path));
            }
        },
    };
    let own = if check.tls.is_some() { "https" } else { "http" };
    if scheme.is_some_and(|scheme| !scheme.eq_ignore_ascii_case(own)) {
        return Err(format!("redirects to {location}, which is not {own}"));
    }
    let uri: Uri = format!("{own}://{rest}").parse().map_err(|_| malformed())?;
    let (Some(authority), Some(path)) = (uri.authority(), uri.path_and_query()) else { return Err(malformed()) };
    let path = path.as_str();
    if authority.as_str().eq_ignore_ascii_case(&from.host) || authority.host().eq_ignore_ascii_case(&from.host) {
        return Ok(next(from.address, from.host.clone(), path));
    }
    let ip: IpAddr = authority.host().trim_matches(['[', ']']).parse().map_err(|_| {
        format!(
            "redirects to {location}; names are not looked up, only addresses and the check's own name are followed"
        )
    })?;
    let port = authority.port_u16().unwrap_or(if own == "https" { 443 } else { 80 });
    Ok(next((ip, port).into(), authority.to_string(), path))
}

/// A path that is relative to another.
fn sibling(path: &str, relative: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    if relative.starts_with('?') || relative.is_empty() {
        return format!("{path}{relative}");
    }
    let directory = path.rfind('/').map_or("/", |end| &path[..=end]);
    format!("{directory}{relative}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(from: &str, location: &str) -> Result<String, String> {
        let check = HttpCheck { redirects: 2, ..HttpCheck::get("10.0.0.2:8080".parse().expect("an address"), from) };
        next(&check, &Target::first(&check), &mut Vec::new(), 302, Some(location.as_bytes()))
            .map(|next| next.to_string())
    }

    #[test]
    fn locations_are_resolved() {
        let cases = [
            ("/a", "/b?c=1#d", "10.0.0.2:8080/b?c=1"),
            ("/a/b?x", "c", "10.0.0.2:8080/a/c"),
            ("/a/b?x", "?y", "10.0.0.2:8080/a/b?y"),
            ("/a", "http://10.0.0.2:8080/b", "10.0.0.2:8080/b"),
            ("/a", "HTTP://10.0.0.3/b", "10.0.0.3:80/b"),
            ("/a", "//[::1]:81", "[::1]:81/"),
        ];
        for (from, location, expected) in cases {
            assert_eq!(led(from, location).as_deref(), Ok(expected), "{location}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        let cases = [
            ("https://10.0.0.2:8080/", "redirects to https://10.0.0.2:8080/, which is not http"),
            ("http://example.org/", "redirects to http://example.org/; names are not looked up"),
            ("http://", "redirects to \"http://\", which is no address"),
            ("/a b", "redirects to \"/a b\", which is no address"),
            ("/a", "redirects in a loop: 10.0.0.2:8080/a → 10.0.0.2:8080/a"),
            ("/ä", "HTTP 302 with a Location that is too long or not of ASCII"),
        ];
        for (location, expected) in cases {
            let error = led("/a", location).expect_err(location);
            assert!(error.starts_with(expected), "{location}: {error}");
        }
        let check = HttpCheck { redirects: 1, ..HttpCheck::get("10.0.0.2:8080".parse().expect("an address"), "/a") };
        let mut visited = Vec::new();
        let second = next(&check, &Target::first(&check), &mut visited, 302, Some(b"/b")).expect("one is allowed");
        let error = next(&check, &second, &mut visited, 302, Some(b"/c")).err().expect("the second is not");
        assert!(error.starts_with("more than 1 redirects: "), "{error}");
        assert!(next(&check, &second, &mut visited, 302, None).is_err());
    }
}
