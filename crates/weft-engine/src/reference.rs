//! References of images.

/// A reference as the engine's API takes it: the name, and a tag or a digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reference {
    /// With its registry.
    pub name: String,
    /// `latest` when the user gave none.
    pub tag_or_digest: String,
}

impl Reference {
    /// Reads `name`, `name:tag`, `name@sha256:…` or `name:tag@sha256:…`; of the last the digest
    /// counts.
    pub fn parse(text: &str) -> Self {
        if let Some((name, digest)) = text.split_once('@') {
            return Self {
                name: split_tag(name).0.to_owned(),
                tag_or_digest: digest.to_owned(),
            };
        }
        let (name, tag) = split_tag(text);
        Self {
            name: name.to_owned(),
            tag_or_digest: tag.unwrap_or("latest").to_owned(),
        }
    }

    /// Whether it names content and not just a tag.
    pub fn is_digest(&self) -> bool {
        self.tag_or_digest.contains(':')
    }

    /// As the engine knows it.
    pub fn canonical(&self) -> String {
        let separator = if self.is_digest() { '@' } else { ':' };
        format!("{}{separator}{}", self.name, self.tag_or_digest)
    }

    /// The host of its registry; Docker's own when it names none.
    pub fn registry(&self) -> &str {
        match self.name.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
            _ => "https://index.docker.io/v1/",
        }
    }
}

/// A colon after the last slash begins a tag; one before it a port.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    let path_begins = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[path_begins..].find(':') {
        Some(colon) => {
            let (name, tag) = name.split_at(path_begins + colon);
            (name, Some(&tag[1..]))
        }
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_ports_and_digests_are_told_apart() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, name, rest) in [
            ("busybox", "busybox", "latest"),
            ("r:5000/x/y", "r:5000/x/y", "latest"),
            ("r:5000/x/y:1", "r:5000/x/y", "1"),
            (&format!("r:5000/x@{digest}"), "r:5000/x", &digest),
            (&format!("r:5000/x:2@{digest}"), "r:5000/x", &digest),
        ] {
            let parsed = Reference::parse(text);
            assert_eq!((&*parsed.name, &*parsed.tag_or_digest), (name, rest));
            assert_eq!(parsed.is_digest(), text.contains('@'));
        }
        assert_eq!(Reference::parse("r:5000/x:1").canonical(), "r:5000/x:1");
        let canonical = Reference::parse(&format!("x:1@{digest}")).canonical();
        assert_eq!(canonical, format!("x@{digest}"));
    }

    #[test]
    fn the_registry_is_the_host() {
        let docker = "https://index.docker.io/v1/";
        for (text, host) in [
            ("busybox", docker),
            ("library/busybox", docker),
            ("localhost/x", "localhost"),
            ("r:5000/x:1", "r:5000"),
            ("ghcr.io/x/y", "ghcr.io"),
        ] {
            assert_eq!(Reference::parse(text).registry(), host);
        }
    }
}
