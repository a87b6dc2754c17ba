//! What a person sees who watches usage on a terminal: tables that fit it, drawn in place, and a terminal that is left as it was.

use crate::harness::{
    Backend, Config, Folder, Gateway, Load, Terminal, burst, eventually, milliseconds, plain, seconds,
};

const WATCH: &str = "usage --watch 1 --last 1h -c tollgate.yaml";

/// A gateway with a few requests in its log.
async fn asked() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    Load::get(gateway.address, "/watched", "").run(2, 50).await.all(200);
    gateway.log_written().await;
    (backend, gateway)
}

fn width(frame: &[String]) -> usize {
    frame.iter().map(|line| line.chars().count()).max().unwrap_or_default()
}

fn file(folder: &Folder, name: &str) -> String {
    std::fs::read_to_string(folder.path().join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_watched_in_place_and_the_terminal_is_left_as_it_was() {
    let (_backend, gateway) = asked().await;
    let terminal = Terminal::start(&gateway.folder, (60, 24), WATCH, &[]);
    terminal.wait_for_frames(3).await;
    let frames = terminal.frames();
    let second = &frames[1];
    assert!(second.iter().any(|line| line.contains("| /*")), "{second:?}");
    assert!(second.iter().any(|line| line.contains("again every 1 s; Ctrl-C ends")), "{second:?}");
    assert!(width(second) <= 60 && second.len() < 24, "{second:?}");
    // What comes meanwhile is seen, and a wider terminal has more columns.
    Load::get(gateway.address, "/watched", "").run(2, 77).await.all(200);
    gateway.log_written().await;
    terminal.widen(&gateway.folder, 200);
    terminal.wait_for_frames(3).await;
    let frames = terminal.frames();
    let wide = &frames[frames.len() - 2];
    assert!(wide.iter().any(|line| line.contains("127") && line.contains("B |")), "{wide:?}");
    assert!(width(wide) > 60, "{wide:?}");
    let drawn = terminal.interrupt().await;
    assert_eq!(drawn.matches("\u{1b}[2J").count(), 1, "everything is erased once");
    assert!(!drawn.contains("\u{1b}[?"), "nothing is switched that has to be switched back");
    tokio::time::sleep(milliseconds(300)).await;
    assert_eq!(file(&gateway.folder, "before"), file(&gateway.folder, "after").replace("columns 200;", "columns 60;"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_terminal_is_not_scrolled_and_no_colour_is_none() {
    let (_backend, gateway) = asked().await;
    let terminal = Terminal::start(&gateway.folder, (100, 6), WATCH, &[("NO_COLOR", "1")]);
    terminal.wait_for_frames(3).await;
    let frames = terminal.frames();
    assert!(frames[1].len() <= 6 && frames[1].iter().any(|line| line.contains("more lines do not fit")), "{frames:?}");
    let drawn = terminal.interrupt().await;
    assert!(!drawn.contains("\u{1b}[3"), "{drawn:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_without_a_terminal_is_refused() {
    let (_backend, gateway) = asked().await;
    let refused = gateway.folder.tollgate(&["usage", "--watch", "-c", "tollgate.yaml"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""));
    assert!(refused.stderr.contains("on a terminal"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_client_sends_steers_the_terminal() {
    let (_backend, gateway) = asked().await;
    let odd = "user-agent: odd\u{9b}31m\u{202e}\u{3164}\r\n";
    Load::get(gateway.address, "/odd", odd).run(1, 1).await.all(200);
    gateway.log_written().await;
    for (format, code) in [("json", "\\u009b31m\\u202e\\u3164"), ("csv", "\\u{9b}31m\\u{202e}\\u{3164}")] {
        let arguments = format!("requests --limit 1 --format {format} -c tollgate.yaml");
        let terminal = Terminal::start(&gateway.folder, (80, 24), &arguments, &[]);
        eventually("it ends", seconds(20), async || terminal.drawn().contains("ended 0")).await;
        let drawn = terminal.drawn();
        assert!(drawn.contains(&format!("odd{code}")), "{drawn:?}");
        assert!(!drawn.contains(['\u{9b}', '\u{202e}', '\u{3164}']), "{drawn:?}");
    }
    // In a file CSV is as the log has it.
    let piped = gateway.folder.tollgate(&["requests", "--limit", "1", "--format", "csv", "-c", "tollgate.yaml"]);
    assert!(piped.stdout.contains("odd\u{9b}31m\u{202e}\u{3164}"), "{}", piped.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_method_and_a_long_path_fit_the_terminal() {
    let (_backend, gateway) = asked().await;
    let path = format!("/{}", "p".repeat(300));
    let method = "M".repeat(32);
    burst(gateway.address, 1, &format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await;
    gateway.log_written().await;
    for columns in [80_u16, 60, 40] {
        for command in ["requests", "usage", "usage --summary", "log status"] {
            let terminal = Terminal::start(&gateway.folder, (columns, 24), &format!("{command} -c tollgate.yaml"), &[]);
            eventually("it ends", seconds(20), async || terminal.drawn().contains("ended ")).await;
            let drawn = terminal.drawn();
            assert!(drawn.contains("ended 0"), "{drawn}");
            let lines: Vec<String> = drawn.lines().map(plain).collect();
            assert!(width(&lines) <= columns.into(), "{columns} {command}:\n{drawn}");
        }
    }
}
