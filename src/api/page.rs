//! The page for people: its files, and what a browser may do with them.

use warp::http::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};

use super::replies::{self, Reply};

/// Nothing of another host, nothing written into the page, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    pub media: &'static str,
    text: &'static str,
}

const fn script(text: &'static str) -> File {
    File {
        media: "text/javascript; charset=utf-8",
        text,
    }
}

pub const INDEX: File = File {
    media: "text/html; charset=utf-8",
    text: include_str!("page/index.html"),
};
pub const STYLE: File = File {
    media: "text/css; charset=utf-8",
    text: include_str!("page/page.css"),
};
pub const ICON: File = File {
    media: "image/svg+xml",
    text: include_str!("page/icon.svg"),
};
pub const PAGE: File = script(include_str!("page/page.js"));
pub const CLIENTS: File = script(include_str!("page/clients.js"));
pub const DETAIL: File = script(include_str!("page/detail.js"));
pub const FORMAT: File = script(include_str!("page/format.js"));
pub const SOURCE: File = script(include_str!("page/source.js"));
pub const TABLE: File = script(include_str!("page/table.js"));

pub fn reply(file: File) -> Reply {
    let mut reply = replies::text(file.media, file.text.to_owned());
    let headers = reply.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_names_another_host_and_each_has_the_policy() {
        for file in [
            INDEX, STYLE, ICON, PAGE, CLIENTS, DETAIL, FORMAT, SOURCE, TABLE,
        ] {
            // The namespace of SVG is a name, not an address.
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("//www.") && !text.contains("http"), "{text}");
            let reply = reply(file);
            assert_eq!(reply.headers()[CONTENT_SECURITY_POLICY], POLICY);
        }
    }
}
