//! Where a listener listens, and what it speaks.

use portcullis_core::gate::{Prefix, PrefixError, WebSocketRules};

use super::super::section::{Placed, Section, Source};
use super::{Bind, Transport};

pub(super) fn read_bind(source: &Source<'_>, bind: Placed<&str>) -> Option<Placed<Bind>> {
    // The longest path that fits into a socket address on Linux, its final NUL included.
    const SUN_PATH: usize = 108;
    let placed = |value| Placed { value, at: bind.at };
    let wrong = |remedy: &str| {
        source.error(
            bind.at,
            format_args!("bind in [[listener]] is {:?}", bind.value),
            remedy,
        );
    };
    if let Some(path) = bind.value.strip_prefix("unix:") {
        let path = source.resolve(path);
        if bind.value == "unix:" || bind.value.contains('\0') {
            wrong("write a path, such as \"unix:portcullis.sock\"");
            return None;
        }
        if path.as_os_str().len() >= SUN_PATH {
            wrong("write a shorter path: the system takes 107 bytes");
            return None;
        }
        return Some(placed(Bind::Unix(path)));
    }
    let Ok(address) = bind.value.parse() else {
        wrong(
            "write an IP address and a port, such as \"127.0.0.1:1883\" or \"[::1]:1883\", or \
             \"unix:PATH\"",
        );
        return None;
    };
    Some(placed(Bind::Tcp(address)))
}

pub(super) fn read_transport(section: &mut Section<'_>) -> Transport {
    let websocket = section.optional_choice("transport", &[("tcp", false), ("websocket", true)]);
    let path = section.text("path", "/mqtt");
    let origins = section.list("origins", "https://app.example");
    let source = section.source();
    if !websocket.is_some_and(|websocket| websocket.value) {
        for key in ["path", "origins"] {
            if let Some(at) = section.place(key) {
                source.error(
                    at,
                    format_args!("{key} in [[listener]] without transport = \"websocket\""),
                    "add transport = \"websocket\", or leave it out",
                );
            }
        }
        return Transport::Tcp;
    }
    if origins.as_ref().is_some_and(Vec::is_empty) {
        source.error(
            section.place("origins").unwrap_or(section.at()),
            "origins in [[listener]] names no origin",
            "write origins = [\"https://app.example\"], or leave it out to serve no web page",
        );
    }
    let path = path.filter(|path| {
        let fits = check_path(path.value);
        if !fits {
            source.error(
                path.at,
                format_args!("path in [[listener]] is {:?}", path.value),
                "write a path such as \"/mqtt\": a slash and visible characters without ? and #",
            );
        }
        fits
    });
    let origins = origins.unwrap_or_default().into_iter().filter_map(|text| {
        let origin = read_origin(text.value);
        if let Err(remedy) = origin {
            source.error(
                text.at,
                format_args!("origins in [[listener]] has {:?}", text.value),
                remedy,
            );
        }
        origin.ok()
    });
    Transport::WebSocket(WebSocketRules {
        path: path.map_or("/mqtt", |path| path.value).into(),
        origins: origins.collect(),
    })
}

fn check_path(path: &str) -> bool {
    const MAX_PATH: usize = 256;
    let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    path.starts_with('/') && path.len() <= MAX_PATH && path.bytes().all(visible)
}

/// An origin as browsers write it (RFC 6454, section 6.2), or what to write.
fn read_origin(text: &str) -> Result<Box<str>, &'static str> {
    const SUCH_AS: &str = "write scheme and host, such as \"https://app.example\" or \
                           \"https://app.example:8443\", without a path and without *";
    let text = text.to_ascii_lowercase();
    let (scheme, host) = text.split_once("://").ok_or(SUCH_AS)?;
    let in_scheme = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let in_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._:[]".contains(c);
    let named = scheme.starts_with(|c: char| c.is_ascii_lowercase()) && !host.starts_with(':');
    if !named || host.is_empty() || !scheme.chars().all(in_scheme) || !host.chars().all(in_host) {
        return Err(SUCH_AS);
    }
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Ok(text.into()),
    };
    if host.ends_with(usual) {
        return Err("leave the port out: browsers leave out the usual one");
    }
    Ok(text.into())
}

/// Who is believed about the client's address; `None`: clients connect directly.
pub(super) fn read_proxies(section: &mut Section<'_>) -> Option<Vec<Prefix>> {
    let proxy = section.flag("proxy-protocol", false);
    let trusted = section.list("trusted-proxies", "10.0.0.0/8");
    let source = section.source();
    let place = section.place("trusted-proxies");
    if !proxy.value {
        if let Some(at) = place {
            source.error(
                at,
                "trusted-proxies in [[listener]] without proxy-protocol = true",
                "add proxy-protocol = true, or leave it out",
            );
        }
        return None;
    }
    let Some(at) = place else {
        source.error(
            proxy.at,
            "proxy-protocol = true in [[listener]] without trusted-proxies",
            "add trusted-proxies = [\"10.0.0.0/8\"], the addresses of the proxies",
        );
        return None;
    };
    let trusted = trusted?;
    if trusted.is_empty() {
        source.error(
            at,
            "trusted-proxies in [[listener]] names no address",
            "write trusted-proxies = [\"10.0.0.0/8\"], the addresses of the proxies",
        );
    }
    let read = |text: Placed<&str>| {
        let range = text.value.parse::<Prefix>();
        if let Err(error) = range {
            source.error(
                text.at,
                format_args!("trusted-proxies in [[listener]] has {:?}", text.value),
                match error {
                    PrefixError::NotARange => {
                        "write addresses or ranges, such as \"10.0.0.5\" or \"10.0.0.0/8\""
                    }
                    PrefixError::HostBits => {
                        "write the first address of the range, such as \"10.0.0.0/8\", or one \
                         address without the number of bits"
                    }
                    PrefixError::Everybody => {
                        "write the addresses of the proxies: whoever is trusted can claim any \
                         address"
                    }
                },
            );
        }
        range.ok()
    };
    Some(trusted.into_iter().filter_map(read).collect())
}
