//! `[container.docker]`

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where dockerd listens unless told otherwise.
pub const DEFAULT_DOCKER_SOCKET: &str = "/run/docker.sock";

/// The longest name of a container at a daemon: with what is added to it, a label of DNS holds it still.
const MAX_NAME: usize = 128;

/// `[container.docker]`: a container of a daemon that speaks Docker's API, such as dockerd or podman.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Docker {
    /// The daemon's unix socket; podman's is /run/podman/podman.sock. Default /run/docker.sock.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// The agent makes the container of this image, which must be there already. Exactly one of `image` and `container` is
    /// there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Something else made the container of this name. The agent starts, stops and pauses it, and never removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What the image's entry point is given; default the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// "NAME=VALUE".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Bytes of memory that it may use; default no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// A network of the daemon, such as "bridge", "none" or "host"; default the daemon's. Not beside `container.network`,
    /// which gives the container an interface of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

impl Docker {
    /// What is wrong, and of which key. `has_interface`: there is a `container.network`.
    pub(super) fn check(&self, has_interface: bool) -> Result<(), (&'static str, String)> {
        if !self.socket.is_absolute() {
            return Err(("socket", "must be an absolute path".into()));
        }
        match (&self.image, &self.container) {
            (Some(image), None) => {
                if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return Err(("image", "is no image, such as \"docker.io/library/nginx:1.27\"".into()));
                }
                if has_interface && self.network.is_some() {
                    return Err(("network", "is not for a container that has a container.network".into()));
                }
            }
            (None, Some(name)) => {
                if !is_docker_name(name) {
                    return Err(("container", "must be 1 to 128 of a-z, A-Z, 0-9, '_', '.' and '-'".into()));
                }
                let made = !self.args.is_empty() || !self.env.is_empty() || self.memory_limit.is_some();
                if made || self.network.is_some() || has_interface {
                    let message = "is made already: args, env, memory_limit and network are only for an image";
                    return Err(("container", message.into()));
                }
            }
            (Some(_), Some(_)) | (None, None) => {
                return Err(("image", "or docker.container is needed, exactly one of them".into()));
            }
        }
        Ok(())
    }
}

/// As the daemons allow it.
fn is_docker_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(inner)
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn default_socket() -> PathBuf {
    DEFAULT_DOCKER_SOCKET.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Docker {
        toml::from_str(text).expect("the keys are known")
    }

    #[test]
    fn either_an_image_or_a_container_that_is_there() {
        let image = parse("image = \"busybox\"\nargs = [\"sleep\", \"60\"]\nmemory_limit = 1000000");
        assert_eq!(image.socket, PathBuf::from(DEFAULT_DOCKER_SOCKET));
        assert_eq!((image.check(true), image.check(false)), (Ok(()), Ok(())));
        assert_eq!(parse("container = \"my_web.1\"").check(false), Ok(()));
        for (text, key) in [
            ("", "image"),
            ("image = \"a\"\ncontainer = \"b\"", "image"),
            ("image = \"a b\"", "image"),
            ("image = \"a\"\nsocket = \"docker.sock\"", "socket"),
            ("image = \"a\"\nnetwork = \"host\"", "network"),
            ("container = \"../images\"", "container"),
            ("container = \"web?force=1\"", "container"),
        ] {
            assert_eq!(parse(text).check(true).map_err(|(key, _)| key), Err(key), "{text}");
        }
        assert!(parse("container = \"web\"\nenv = [\"A=B\"]").check(false).is_err());
    }
}
