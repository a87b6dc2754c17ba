//! Memory and disk together, in a folder of each test's own; a second store on the same folder is a process that was started again.
//! What is found after that is whole and was not purged, or nothing is found.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::*;

const GB: u64 = 1 << 30;

/// A store with a disk. The process ends where it is dropped: nothing more is written.
fn open(folder: &Path, memory: u64, room: u64) -> &'static Cache {
    let cache = cache(memory);
    cache.open_disk(folder, memory, room).unwrap();
    cache
}

fn disk(cache: &'static Cache) -> crate::cache::DiskStats {
    cache.stats().disk.unwrap()
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not so after 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until everything is written and looked at.
async fn settled(cache: &'static Cache) {
    until("written", || disk(cache).queued == 0 && disk(cache).state == "open").await;
}

/// Ends one store and starts another one on its folder.
async fn again(cache: &'static Cache, folder: &Path) -> &'static Cache {
    cache.close_disk(Instant::now() + Duration::from_secs(20));
    let cache = open(folder, 8 * MB, GB);
    settled(cache).await;
    cache
}

/// Forgets what memory has, so that only the disk is left.
fn forget_memory(cache: &'static Cache) {
    cache.resize(0);
    cache.resize(6 * MB);
    assert_eq!(cache.stats().entries, 0);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let parts = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = parts.flat_map(|part| std::fs::read_dir(part).unwrap().map(|entry| entry.unwrap().path()));
    files.collect()
}

#[tokio::test]
async fn what_was_stored_is_found_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), 8 * MB, GB);
    let whole: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    fill(first, &key("/large", None), &tagged(first, "t"), &[&whole]).await;
    fill(first, &key("/empty", Some("acme")), &meta(first, &[("x-one", "1")]), &[]).await;
    for language in 1..=3 {
        fill(first, &key("/vary", None), &variant(first, language), &[&[language]]).await;
    }
    let second = again(first, folder.path()).await;
    assert_eq!((disk(second).entries, second.stats().entries), (5, 0));
    assert_eq!(look(second, &key("/large", None)).await.unwrap().1, whole);
    let (meta, body) = look(second, &key("/empty", Some("acme"))).await.unwrap();
    assert_eq!((meta.headers()["x-one"].as_bytes(), body.len()), (&b"1"[..], 0));
    assert!(meta.is_fresh(SystemTime::now()));
    assert!(look(second, &key("/empty", None)).await.is_none());
    let mut vary = key("/vary", None);
    let newest = look(second, &vary).await.unwrap();
    assert_eq!((newest.0.variance(), newest.1), (Some(variance(3)), vec![3]));
    assert_eq!(newest.0.extensions().get::<Choice>().unwrap().0.variants.len(), 3);
    vary.set_variance_key(variance(1));
    assert_eq!(look(second, &vary).await.unwrap().1, [1]);
    let stats = disk(second);
    assert_eq!((stats.hits, stats.loads, stats.corrupt, stats.errors), (3, 5, 0, 0));
    // From now on memory has them.
    assert_eq!(second.stats().entries, 5);
    assert_eq!(second.purge(Scope::Tag("t"), How::Hard), 1);
}

#[tokio::test]
async fn what_gives_way_in_memory_is_still_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 2 * MB, GB);
    let body = |number: u32| number.to_be_bytes().repeat(5_000);
    for number in 0..200_u32 {
        fill(cache, &key(&format!("/{number}"), None), &meta(cache, &[]), &[&body(number)]).await;
        until("room in the queue", || disk(cache).queued_bytes < 100_000).await;
    }
    assert!(cache.stats().entries < 100, "{:?}", cache.stats());
    for number in 0..200_u32 {
        assert_eq!(look(cache, &key(&format!("/{number}"), None)).await.unwrap().1, body(number));
    }
    assert!(disk(cache).hits > 100 && disk(cache).dropped == 0, "{:?}", disk(cache));
}

#[tokio::test]
async fn a_purge_counts_once_what_is_in_both_and_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let (host, path) = ("example.com", "/a");
    let scopes = [
        Scope::Url { host, path_and_query: path },
        Scope::Prefix { host, path },
        Scope::Route("/*"),
        Scope::Tag("t"),
        Scope::Consumer("acme"),
        Scope::All,
    ];
    let mut cache = open(folder.path(), 8 * MB, GB);
    for scope in scopes {
        for wanted in ["memory", "disk", "queue", "both"] {
            for (path, tags) in [("/a", "t u"), ("/other", "u")] {
                fill(cache, &key(path, Some("acme")), &tagged(cache, tags), &[b"old"]).await;
            }
            if wanted != "queue" {
                settled(cache).await;
            }
            if wanted == "disk" {
                forget_memory(cache);
            }
            let expected =
                if matches!(scope, Scope::Url { .. } | Scope::Prefix { .. } | Scope::Tag(_)) { 1 } else { 2 };
            assert_eq!(cache.purge(scope, How::Hard), expected, "{scope:?} {wanted}");
            settled(cache).await;
            assert_eq!(files(folder.path()).len() as u64, disk(cache).entries, "{scope:?} {wanted}");
            assert!(look(cache, &key("/a", Some("acme"))).await.is_none(), "{scope:?} {wanted}");
            cache = again(cache, folder.path()).await;
            assert!(look(cache, &key("/a", Some("acme"))).await.is_none(), "{scope:?} {wanted}");
            assert_eq!(look(cache, &key("/other", Some("acme"))).await.is_some(), expected == 1, "{scope:?} {wanted}");
            cache.purge(Scope::All, How::Hard);
        }
    }
}

#[tokio::test]
async fn a_soft_purge_lasts_and_a_changed_answer_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    for path in ["/a", "/b", "/c"] {
        fill(cache, &key(path, None), &tagged(cache, "t"), &[b"old"]).await;
    }
    settled(cache).await;
    forget_memory(cache);
    look(cache, &key("/a", None)).await.unwrap();
    assert_eq!(cache.invalidate("example.com", "/c"), 1);
    assert_eq!(cache.purge(Scope::Tag("t"), How::Soft), 2);
    assert_eq!(cache.purge(Scope::Tag("t"), How::Soft), 0, "they are stale already");
    let cache = again(cache, folder.path()).await;
    for path in ["/a", "/b"] {
        let (meta, body) = look(cache, &key(path, None)).await.unwrap();
        assert!(!meta.is_fresh(SystemTime::now()) && body == b"old");
    }
    assert!(look(cache, &key("/c", None)).await.is_none());
}

#[tokio::test]
async fn what_was_purged_while_it_waited_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    // As long as another process has the folder, everything waits.
    let lock = File::create(folder.path().join("cache.lock")).unwrap();
    lock.lock().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    for path in ["/a", "/b", "/c"] {
        fill(cache, &key(path, None), &tagged(cache, path), &[b"old"]).await;
    }
    assert_eq!((disk(cache).queued, disk(cache).state), (3, "waiting"));
    assert_eq!(cache.purge(Scope::Tag("/a"), How::Hard), 1);
    assert_eq!(cache.purge(Scope::Tag("/b"), How::Soft), 1);
    assert_eq!(disk(cache).queued, 2);
    forget_memory(cache);
    // What waits is found as well.
    assert_eq!(look(cache, &key("/c", None)).await.unwrap().1, b"old");
    drop(lock);
    settled(cache).await;
    assert_eq!(files(folder.path()).len(), 2);
    let cache = again(cache, folder.path()).await;
    assert!(look(cache, &key("/a", None)).await.is_none());
    assert!(!look(cache, &key("/b", None)).await.unwrap().0.is_fresh(SystemTime::now()));
    assert!(look(cache, &key("/c", None)).await.unwrap().0.is_fresh(SystemTime::now()));
}

#[tokio::test]
async fn a_purge_before_the_folder_was_looked_at_wins_over_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    for path in ["/a", "/b", "/c"] {
        fill(cache, &key(path, None), &tagged(cache, path), &[b"old"]).await;
    }
    cache.close_disk(Instant::now() + Duration::from_secs(20));
    let lock = File::open(folder.path().join("cache.lock")).unwrap();
    lock.lock().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    cache.purge(Scope::Tag("/a"), How::Hard);
    // This process has a newer one.
    fill(cache, &key("/b", None), &tagged(cache, "/b"), &[b"new"]).await;
    drop(lock);
    settled(cache).await;
    forget_memory(cache);
    assert!(look(cache, &key("/a", None)).await.is_none());
    assert_eq!(look(cache, &key("/b", None)).await.unwrap().1, b"new");
    assert_eq!(look(cache, &key("/c", None)).await.unwrap().1, b"old");
}

#[tokio::test]
async fn the_queue_is_bounded_and_what_finds_no_room_takes_the_old_one_along() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    fill(cache, &key("/0", None), &meta(cache, &[]), &[b"old"]).await;
    settled(cache).await;
    cache.close_disk(Instant::now() + Duration::from_secs(20));
    let lock = File::open(folder.path().join("cache.lock")).unwrap();
    lock.lock().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    let block = vec![0; 200_000];
    for number in (0..20).rev() {
        fill(cache, &key(&format!("/{number}"), None), &meta(cache, &[]), &[&block]).await;
    }
    let stats = disk(cache);
    assert!(stats.queued_bytes <= stats.queued_bytes_max && stats.queued_bytes_max == MB, "{stats:?}");
    assert_eq!((stats.queued, stats.dropped), (4, 16));
    drop(lock);
    settled(cache).await;
    forget_memory(cache);
    assert!(look(cache, &key("/0", None)).await.is_none(), "an older answer came back");
    assert!(look(cache, &key("/19", None)).await.is_some());
}

#[tokio::test]
async fn files_never_take_more_than_their_bound() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, 2 * MB);
    let mut random = StdRng::seed_from_u64(3);
    let used = || {
        files(folder.path())
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|meta| meta.len().div_ceil(4096) * 4096)
            .sum::<u64>()
    };
    for round in 0..600 {
        let key = key(&format!("/{}", random.random_range(0..200)), None);
        fill(cache, &key, &meta(cache, &[]), &[&vec![7; random.random_range(0..100_000)]]).await;
        until("room in the queue", || disk(cache).queued_bytes < 500_000).await;
        if round % 20 == 0 {
            assert!(used() <= 2 * MB, "{} bytes", used());
        }
    }
    settled(cache).await;
    let stats = disk(cache);
    assert!(stats.evictions > 100 && stats.bytes == used() && stats.bytes <= 2 * MB, "{stats:?} {}", used());
    cache.bound(8 * MB, Some(MB));
    until("less", || disk(cache).bytes <= MB).await;
    settled(cache).await;
    assert_eq!(files(folder.path()).len() as u64, disk(cache).entries);
}

#[tokio::test]
async fn the_index_takes_no_more_memory_than_its_part() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), MB, GB);
    for number in 0..600 {
        fill(cache, &key(&format!("/{number}"), None), &tagged(cache, &format!("all t{number}")), &[b"x"]).await;
        until("room in the queue", || disk(cache).queued_bytes < 50_000).await;
    }
    settled(cache).await;
    let stats = disk(cache);
    assert!(stats.evictions > 100 && stats.index_bytes <= stats.index_bytes_max && stats.dropped == 0, "{stats:?}");
    assert_eq!(files(folder.path()).len() as u64, stats.entries);
    forget_memory(cache);
    assert_eq!(cache.purge(Scope::Tag("all"), How::Hard), stats.entries);
    assert_eq!((disk(cache).index_bytes, disk(cache).bytes, files(folder.path()).len()), (0, 0, 0));
}

#[tokio::test]
async fn whatever_is_wrong_with_a_file_is_a_miss_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    let paths = ["/flipped", "/cut", "/gone", "/other", "/good"];
    let fill_all = async |cache| {
        for path in paths {
            fill(cache, &key(path, None), &meta(cache, &[]), &[path.as_bytes()]).await;
            settled(cache).await;
        }
    };
    let file_of = |path: &str| {
        let name = key(path, None).primary_bin().map(|byte| format!("{byte:02x}")).concat();
        folder.path().join(&name[..2]).join(name + "-0")
    };
    let damage = || {
        let mut bytes = std::fs::read(file_of("/flipped")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(file_of("/flipped"), bytes).unwrap();
        File::options().write(true).open(file_of("/cut")).unwrap().set_len(60).unwrap();
        std::fs::remove_file(file_of("/gone")).unwrap();
        // Another answer's file, whole, under this name.
        std::fs::copy(file_of("/good"), file_of("/other")).unwrap();
    };
    fill_all(cache).await;
    forget_memory(cache);
    damage();
    for path in &paths[..4] {
        assert!(look(cache, &key(path, None)).await.is_none(), "{path}");
    }
    assert_eq!(look(cache, &key("/good", None)).await.unwrap().1, b"/good");
    // The other answer's is of another version, as one that was replaced a moment ago would be.
    assert_eq!((disk(cache).corrupt, disk(cache).entries), (3, 2));
    cache.purge(Scope::All, How::Hard);
    fill_all(cache).await;
    damage();
    std::fs::write(folder.path().join("00").join("mine.txt"), "x")
        .or_else(|_| std::fs::write(folder.path().join("mine.txt"), "x"))
        .unwrap();
    let cache = again(cache, folder.path()).await;
    // Heads are looked at first: the flipped byte is in a body.
    assert_eq!((disk(cache).corrupt, disk(cache).entries), (2, 2));
    for path in &paths[..4] {
        assert!(look(cache, &key(path, None)).await.is_none(), "{path}");
    }
    assert_eq!((disk(cache).corrupt, disk(cache).entries), (3, 1));
    until("removed", || files(folder.path()).iter().filter(|path| path.extension().is_none()).count() == 1).await;
}

#[tokio::test]
async fn a_folder_that_can_not_be_written_hurts_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    let key = key("/a", None);
    std::fs::write(folder.path().join(format!("{:02x}", key.primary_bin()[0])), "in the way").unwrap();
    assert!(fill(cache, &key, &meta(cache, &[]), &[b"x"]).await > 0);
    until("an error", || disk(cache).queued == 0 && disk(cache).errors > 0).await;
    assert_eq!(look(cache, &key).await.unwrap().1, b"x");
    assert_eq!((disk(cache).dropped, disk(cache).entries, cache.purge(Scope::All, How::Hard)), (1, 0, 1));
    assert!(!folder.path().join("cache.writing").exists());
}

#[tokio::test]
async fn a_confirmation_and_other_fields_of_vary_are_written_too() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    let key = key("/a", None);
    let mut stale = meta(cache, &[("etag", "1")]);
    stale.expire_at(SystemTime::now() - Duration::from_secs(5));
    fill(cache, &key, &stale, &[b"body"]).await;
    settled(cache).await;
    forget_memory(cache);
    // Stale ones are found as well, so that they can be confirmed.
    let (found, _) = look(cache, &key).await.unwrap();
    assert!(!found.is_fresh(SystemTime::now()));
    let mut confirmed = meta(cache, &[("etag", "1"), ("x-new", "yes")]);
    confirmed.extensions_mut().extend(found.extensions().clone());
    assert!(cache.update_meta(&key, &confirmed, &Span::inactive().handle()).await.unwrap());
    let cache = again(cache, folder.path()).await;
    let (fresh, body) = look(cache, &key).await.unwrap();
    assert!(fresh.is_fresh(SystemTime::now()) && body == b"body" && fresh.headers().contains_key("x-new"));
    for language in 1..=70 {
        fill(cache, &key, &variant(cache, language), &[&[language]]).await;
    }
    settled(cache).await;
    assert_eq!((disk(cache).entries, files(folder.path()).len()), (64, 64));
    fill(cache, &key, &meta(cache, &[]), &[b"plain"]).await;
    settled(cache).await;
    assert_eq!((disk(cache).entries, files(folder.path()).len()), (1, 1));
}

/// Eight tasks store, purge, forget and look. Answers hold how many purges of their path had begun when they were asked for:
/// what is found is of no purge before one that was over when it was looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_that_was_purged_comes_back_under_load() {
    const PATHS: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), MB, 64 * MB);
    let counters = || Box::leak(Box::new(std::array::from_fn::<_, PATHS, _>(|_| AtomicU64::new(0))));
    let (begun, over): (&'static [AtomicU64; PATHS], &'static [AtomicU64; PATHS]) = (counters(), counters());
    let tasks = (0..8_u64).map(|seed| {
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            for _ in 0..600 {
                let at: usize = random.random_range(0..PATHS);
                let (path, tag) = (format!("/{at}"), format!("t{at}"));
                let key = key(&path, None);
                match random.random_range(0..20) {
                    0 => {
                        let number = begun[at].fetch_add(1, Ordering::SeqCst) + 1;
                        let how = random.random_range(0..3);
                        let purge = move || match how {
                            0 => cache.purge(Scope::Tag(&tag), How::Hard),
                            1 => cache.purge(Scope::All, How::Hard),
                            _ => cache.invalidate("example.com", &path),
                        };
                        tokio::task::spawn_blocking(purge).await.unwrap();
                        over[at].fetch_max(number, Ordering::SeqCst);
                    }
                    // Pushes others out of memory.
                    1 | 2 => {
                        let other = super::key(&format!("/others/{}", random.random::<u32>()), None);
                        fill(cache, &other, &meta(cache, &[]), &[&[0; 60_000]]).await;
                    }
                    3..=9 => {
                        let meta = tagged(cache, &tag);
                        // After the stamp was taken.
                        let number = begun[at].load(Ordering::SeqCst);
                        let one = [number, at as u64].map(u64::to_be_bytes).concat();
                        fill(cache, &key, &meta, &[&one.repeat(random.random_range(1..2_000))]).await;
                    }
                    _ => {
                        let purged = over[at].load(Ordering::SeqCst);
                        let Some((_, body)) = look(cache, &key).await else { continue };
                        let one = &body[..16];
                        assert!(body.chunks(16).all(|part| part == one), "an answer in pieces");
                        let [number, of] =
                            [&one[..8], &one[8..]].map(|part| u64::from_be_bytes(part.try_into().unwrap()));
                        assert_eq!(of, at as u64, "another path's answer");
                        assert!(number >= purged, "answer {number} of {path} after purge {purged}");
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    settled(cache).await;
    let stats = disk(cache);
    assert!(stats.hits > 0 && stats.corrupt == 0 && stats.errors == 0, "{stats:?}");
    assert_eq!(files(folder.path()).len() as u64, stats.entries);
    cache.purge(Scope::All, How::Hard);
    assert_eq!(files(folder.path()).len(), 0);
}

#[tokio::test]
async fn parts_stay_in_memory_and_an_older_whole_goes() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    let key = key("/a", None);
    fill(cache, &key, &meta(cache, &[("etag", "\"1\"")]), &[b"whole"]).await;
    settled(cache).await;
    forget_memory(cache);
    let newer = meta(cache, &[("etag", "\"2\"")]);
    let mut part = crate::cache::Part::new(cache, &key, &newer, 0..2, 5).unwrap();
    assert!(part.add(b"ne"));
    part.store();
    assert!(look(cache, &key).await.is_none(), "an older answer than the part came back");
    until("removed", || files(folder.path()).is_empty()).await;
    assert_eq!((disk(cache).entries, disk(cache).dropped), (0, 0));
}

#[tokio::test]
async fn an_answer_of_64_kib_fits_into_the_least_memory() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), crate::config::CACHE_MEMORY_MIN, 64 * MB);
    assert!(fill(cache, &key("/a", None), &meta(cache, &[("x-one", "1")]), &[&vec![0; 64 << 10]]).await > 0);
    assert!(look(cache, &key("/a", None)).await.is_some());
    settled(cache).await;
    assert_eq!(disk(cache).entries, 1);
}

#[tokio::test]
async fn what_is_too_large_by_its_key_alone_gets_neither_to_memory_nor_to_disk() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    // Two answers of just under the bound, with keys of different length.
    let body = vec![0; cache.body_bytes_max() as usize];
    let headers = meta(cache, &[("x-long", &"x".repeat(10_000))]);
    let (short, long) = (key("/a", None), key(&format!("/{}", "a".repeat(20_000)), None));
    assert!(fill(cache, &short, &headers, &[&body]).await > 0);
    assert_eq!(fill(cache, &long, &headers, &[&body]).await, 0);
    let before = meta(cache, &[("x-long", &"x".repeat(10_000)), ("etag", "\"1\"")]);
    let mut part = crate::cache::Part::new(cache, &long, &before, 0..body.len(), body.len()).unwrap();
    assert!(part.add(&body));
    part.store();
    settled(cache).await;
    assert_eq!((cache.stats().entries, cache.stats().dropped_too_large), (1, 2));
    assert_eq!((disk(cache).entries, disk(cache).writes), (1, 1));
}

#[tokio::test]
async fn headers_that_a_confirmation_changed_are_written_where_each_use_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 8 * MB, GB);
    let key = key("/a", None);
    let answer = |headers: &[(&'static str, &str)]| {
        let mut meta = meta(cache, &[headers, &[("content-length", "4")]].concat());
        meta.expire_at(SystemTime::UNIX_EPOCH);
        meta
    };
    fill(cache, &key, &answer(&[("etag", "1"), ("x-one", "old"), ("expires", "0")]), &[b"body"]).await;
    settled(cache).await;
    // A new time alone is not written: the next confirmation tells it again.
    for (headers, writes) in [
        ([("etag", "1"), ("x-one", "old"), ("expires", "1")], 1),
        ([("etag", "1"), ("x-one", "new"), ("expires", "2")], 2),
        ([("etag", "1"), ("x-one", "new"), ("expires", "3")], 2),
    ] {
        let (found, _) = look(cache, &key).await.unwrap();
        let mut confirmed = answer(&headers);
        confirmed.extensions_mut().extend(found.extensions().clone());
        assert!(cache.update_meta(&key, &confirmed, &Span::inactive().handle()).await.unwrap());
        settled(cache).await;
        assert_eq!(disk(cache).writes, writes, "{headers:?}");
    }
    let cache = again(cache, folder.path()).await;
    assert_eq!(look(cache, &key).await.unwrap().0.headers()["x-one"], "new");
}
