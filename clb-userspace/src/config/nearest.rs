//! Which name was meant? The nearest known one, if it is near enough to be a slip of the finger.

/// The longest name that is looked at: what is longer is no slip, and costs the square of its length.
const MAX_LENGTH: usize = 64;
/// How many names are looked at.
const MAX_NAMES: usize = 64;

/// The name that differs least from the written one, if at all, by not more than a third of its letters.
pub fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if written.len() > MAX_LENGTH {
        return None;
    }
    let allowed = |name: &str| (name.len().max(written.len()) / 3).max(1);
    names
        .take(MAX_NAMES)
        .filter(|name| name.len().abs_diff(written.len()) <= allowed(name))
        .map(|name| (strsim::osa_distance(written, name), name))
        .filter(|&(distance, name)| distance <= allowed(name))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slip_has_a_nearest_name() {
        let names = ["vip", "port", "protocol", "primary_ip"];
        let cases = [
            ("vpi", Some("vip"), "two letters in the wrong order"),
            ("ports", Some("port"), "one letter too many"),
            ("primaryip", Some("primary_ip"), "a missing underscore"),
            ("weight", None, "another word"),
            ("x", None, "one letter has no near name"),
        ];
        for (written, expected, name) in cases {
            assert_eq!(nearest(written, names.into_iter()), expected, "{name}");
        }
    }
}
