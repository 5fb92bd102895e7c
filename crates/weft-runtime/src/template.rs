//! Replaces `{}` and `{index}` in arguments, whole or embedded, as `find -exec` and `xargs -I` do.

/// The arguments with `{}` replaced by the name of the input and `{index}` by the number of the task.
///
/// Without a named input `{}` stays as it is. A name that begins with `-` is written as `./-…`, so that no file
/// can pose as an option.
pub(crate) fn expand(args: &[String], file: Option<&str>, index: u32) -> Vec<String> {
    let file = file.map(|name| {
        if name.starts_with('-') {
            format!("./{name}")
        } else {
            name.to_owned()
        }
    });
    args.iter()
        .map(|arg| expand_one(arg, file.as_deref(), index))
        .collect()
}

/// In one pass, so that braces within a name are never replaced.
fn expand_one(arg: &str, file: Option<&str>, index: u32) -> String {
    let mut out = String::with_capacity(arg.len());
    let mut rest = arg;
    while let Some(position) = rest.find('{') {
        let (before, from_brace) = rest.split_at(position);
        out.push_str(before);
        rest = if let (Some(file), Some(after)) = (file, from_brace.strip_prefix("{}")) {
            out.push_str(file);
            after
        } else if let Some(after) = from_brace.strip_prefix("{index}") {
            out.push_str(&index.to_string());
            after
        } else {
            out.push('{');
            &from_brace[1..]
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(arg: &str, file: Option<&str>) -> String {
        expand(&[arg.to_owned()], file, 7).remove(0)
    }

    #[test]
    fn placeholders_are_replaced_whole_and_embedded() {
        assert_eq!(expanded("{}", Some("a.txt")), "a.txt");
        assert_eq!(expanded("x={}:{index}:{}", Some("a")), "x=a:7:a");
        assert_eq!(expanded("{index}", None), "7");
    }

    #[test]
    fn braces_that_are_no_placeholder_stay() {
        assert_eq!(expanded("{} {x} {{} {", None), "{} {x} {{} {");
        assert_eq!(expanded("{}", Some("{index}")), "{index}");
    }

    #[test]
    fn a_file_cannot_pose_as_an_option() {
        assert_eq!(expanded("{}", Some("-rf")), "./-rf");
    }
}
