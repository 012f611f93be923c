//! What a hub, or somebody between it and us, can do wrong. Whatever it is: no file is ever found under a model's name
//! that is not whole, and the message says what to do.

use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Nothing may have been fetched but the listing, and nothing be there.
fn nothing_happened(hub: &FakeHub, models: &Path) {
    assert!(hub.asked().iter().all(|asked| asked.path.starts_with("/api/")));
    assert_eq!(files_in(models), Vec::<String>::new());
}

#[test]
fn refusals_say_what_to_do() {
    let code = |code: &str| vec![("x-error-code", code.to_owned())];
    let status = Mischief::Status;
    for (answer, kind, says) in [
        (status(401, vec![]), "Denied", "does not accept the token (401); put a valid one into HF_TOKEN"),
        (status(403, code("GatedRepo")), "Denied", "is gated: accept its licence on the model's page"),
        (status(403, vec![("x-error-message", "ask your admin".into())]), "Denied", "403 Forbidden (ask your admin)"),
        (status(404, code("RepoNotFound")), "Missing", "there is no someone/tiny, or the account of HF_TOKEN may not"),
        (status(404, code("RevisionNotFound")), "Missing", "someone/tiny has no revision \"main\""),
        (status(418, vec![]), "Broken", "the hub answers 418"),
    ] {
        let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
        hub.next("listing", answer);
        let fault = fault(fetch(&hub, &order(), models.path()));
        assert!(format!("{fault:?}").starts_with(kind) && fault.to_string().contains(says), "{fault:?}");
        nothing_happened(&hub, models.path());
    }
}

#[test]
fn a_stranger_is_told_to_show_a_token() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let stranger = Hub::at(&hub.endpoint, None, patience()).unwrap();
    for (code, says) in
        [("RepoNotFound", "is not there, or not for everybody (401)"), ("GatedRepo", "is gated: accept")]
    {
        hub.next("listing", Mischief::Status(401, vec![("x-error-code", code.into())]));
        let fault = fault(pull(&stranger, &order(), models.path(), &mut |_| (), &AtomicBool::new(false)));
        assert!(
            matches!(&fault, Fault::Denied(text) if text.contains(says) && text.contains("set HF_TOKEN")),
            "{fault}"
        );
    }
    assert!(hub.asked().iter().all(|asked| asked.token.is_none()));
}

#[test]
fn a_busy_hub_is_left_alone_as_long_as_it_asks_for() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let busy = |seconds: &str| Mischief::Status(429, vec![("retry-after", seconds.to_owned())]);
    hub.next("listing", busy("1"));
    hub.next(UNET, Mischief::Status(503, vec![]));
    let began = Instant::now();
    fetch(&hub, &order(), models.path()).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    // Longer than anybody would wait in front of a terminal.
    hub.next("listing", busy("3600"));
    let fault = fault(fetch(&hub, &order(), models.path()));
    assert!(
        matches!(&fault, Fault::Busy { retry_after_seconds: Some(3600), message } if message.contains("in 3600 s"))
    );
    let dates = [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 09:49:37 GMT")];
    hub.next("listing", Mischief::Status(503, dates.map(|(name, date)| (name, date.to_owned())).to_vec()));
    let fault = self::fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&fault, Fault::Busy { retry_after_seconds: Some(3600), .. }), "{fault:?}");
}

#[test]
fn a_file_that_is_cut_is_resumed_at_once_as_long_as_something_comes() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    // More often than there are attempts in a row.
    for _ in 0..5 {
        hub.next(UNET, Mischief::CutAfter(100_000));
    }
    let pulled = fetch(&hub, &order(), models.path()).unwrap();
    let ranges: Vec<_> = hub.asked().into_iter().filter(|a| a.path.ends_with(UNET)).map(|a| a.range).collect();
    let from = |n: usize| Some(format!("bytes={n}-"));
    assert_eq!(ranges, [None, from(100_000), from(200_000), from(300_000), from(400_000), from(500_000)]);
    assert_eq!(fs::read(pulled.path.join(UNET)).unwrap(), weights(1));
}

#[test]
fn a_file_that_stays_cut_is_given_up_and_resumed_by_the_next_pull() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    hub.next(UNET, Mischief::CutAfter(LARGE / 2));
    hub.next(UNET, Mischief::CutAfter(0));
    hub.next(UNET, Mischief::CutAfter(0));
    let fault = fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&fault, Fault::Unreachable(says) if says.contains("broke off")), "{fault:?}");
    assert!(!models.path().join("tiny").exists());
    assert_eq!(fs::metadata(part(models.path())).unwrap().len(), LARGE as u64 / 2);
    hub.asked();
    fetch(&hub, &order(), models.path()).unwrap();
    assert_eq!(hub.asked()[1].range.as_deref(), Some("bytes=350000-"));
    assert_eq!(files_in(models.path()), whole());
}

#[test]
fn a_server_that_knows_no_ranges_sends_all_of_it_again() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    hub.next(UNET, Mischief::CutAfter(LARGE / 2));
    hub.next(UNET, Mischief::WithoutRange);
    let pulled = fetch(&hub, &order(), models.path()).unwrap();
    assert_eq!(hub.asked().pop().unwrap().range.as_deref(), Some("bytes=350000-"));
    assert_eq!(fs::read(pulled.path.join(UNET)).unwrap(), weights(1));
}

#[test]
fn what_an_earlier_attempt_left_is_not_trusted() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    hub.next(UNET, Mischief::CutAfter(LARGE / 2));
    hub.next(UNET, Mischief::Status(418, vec![]));
    fetch(&hub, &order(), models.path()).unwrap_err();
    let part = part(models.path());
    // Damaged in the middle, then longer than the file will be.
    for damage in [weights(7)[..LARGE / 2].to_vec(), vec![7; LARGE + 1]] {
        fs::write(&part, damage).unwrap();
        hub.next(UNET, Mischief::CutAfter(LARGE / 4));
        let pulled = fetch(&hub, &order(), models.path()).unwrap();
        assert_eq!(fs::read(pulled.path.join(UNET)).unwrap(), weights(1));
        fs::remove_file(pulled.path.join(UNET)).unwrap();
        fs::create_dir_all(part.parent().unwrap()).unwrap();
    }
}

#[test]
fn wrong_content_never_gets_the_files_name() {
    let short = weights(1)[..LARGE - 1].to_vec();
    let long = [weights(1), vec![0]].concat();
    for (content, says) in [
        (weights(3), "its hash is"),
        (short, "the hub sent 699999 of its 700000 bytes"),
        (long, "the hub sends more than its 700000 bytes"),
        (b"<html>Please log in</html>".to_vec(), "the hub sent 26 of its 700000 bytes"),
    ] {
        let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
        // As often as it is tried: what follows a short one is asked for from there on.
        for _ in 0..6 {
            hub.next(UNET, Mischief::Instead(content.clone()));
        }
        let fault = fault(fetch(&hub, &order(), models.path()));
        assert!(matches!(&fault, Fault::Broken(text) if text.starts_with(UNET) && text.contains(says)), "{fault:?}");
        assert!(!models.path().join("tiny").exists());
        assert!(files_in(models.path()).iter().all(|file| !file.ends_with(UNET)));
    }
}

#[test]
fn a_small_file_is_checked_too() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    hub.next("unet/config.json", Mischief::Instead(b"{\"a\": 7}".to_vec()));
    let fault = fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&fault, Fault::Broken(text) if text.starts_with("unet/config.json: its hash is")), "{fault:?}");
}

#[test]
fn a_body_without_an_end_is_ended() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    hub.next(UNET, Mischief::Endless);
    let says = fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&says, Fault::Broken(text) if text.contains("more than its 700000 bytes")), "{says:?}");
    hub.next("listing", Mischief::Endless);
    let says = fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&says, Fault::Broken(text) if text.contains("the listing has no end")), "{says:?}");
}

#[test]
fn a_listing_that_leads_elsewhere_is_refused_before_anything_is_fetched() {
    for path in
        ["../../evil.json", "/etc/passwd", "unet/../../x", "unet\\..\\..\\x", "C:\\x", "unet//x", "./x", "a\u{0}b"]
    {
        let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
        let mut listing = hub.listing();
        listing["siblings"][3]["rfilename"] = json!(path);
        hub.list(listing.to_string());
        let fault = fault(fetch(&hub, &order(), models.path()));
        assert!(
            matches!(&fault, Fault::Broken(text) if text.contains("could lead out of the model's folder")),
            "{fault:?}"
        );
        nothing_happened(&hub, models.path());
    }
}

#[test]
fn a_listing_that_is_none_is_refused() {
    let commit = json!("main/../x");
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let mut forged = hub.listing();
    forged["sha"] = commit;
    let mut unknown = hub.listing();
    unknown["siblings"][2]["lfs"]["sha256"] = json!("short");
    for (listing, says) in [
        ("<!doctype html>".to_owned(), "is not what a hub sends"),
        ("[]".to_owned(), "is not what a hub sends"),
        (String::new(), "is not what a hub sends"),
        (forged.to_string(), "names no commit but"),
        (unknown.to_string(), "gives no size or hash for"),
    ] {
        hub.list(listing);
        let fault = fault(fetch(&hub, &order(), models.path()));
        assert!(matches!(&fault, Fault::Broken(text) if text.contains(says)), "{fault:?}");
        nothing_happened(&hub, models.path());
    }
}

#[test]
fn a_model_that_does_not_fit_on_the_disk_is_not_begun() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let mut listing = hub.listing();
    for file in listing["siblings"].as_array_mut().unwrap() {
        if file["rfilename"] == UNET {
            file["lfs"]["size"] = json!(1u64 << 60);
        }
    }
    hub.list(listing.to_string());
    let fault = fault(fetch(&hub, &order(), models.path()));
    assert!(
        matches!(&fault, Fault::NoSpace(text) if text.starts_with("tiny takes 1.00 EiB more, but only")),
        "{fault:?}"
    );
    assert_eq!(hub.files_asked(), Vec::<String>::new());
}

#[test]
fn the_token_does_not_follow_to_another_host() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let store = FakeHub::start(&[(UNET, &weights(1))]);
    hub.next(UNET, Mischief::Redirect(format!("{}/store/{UNET}?signature=x", store.endpoint)));
    // A redirect within the hub, as for a repository that has been renamed.
    hub.next("unet/config.json", Mischief::Redirect("/store/unet/config.json".into()));
    fetch(&hub, &order(), models.path()).unwrap();
    let asked = store.asked();
    assert_eq!((asked.len(), asked[0].token.as_deref()), (1, None));
    let renamed = hub.asked().into_iter().find(|asked| asked.path.starts_with("/store/")).unwrap();
    assert_eq!(renamed.token.as_deref(), Some("Bearer hf_secret"));
}

#[test]
fn a_store_whose_link_has_run_out_is_asked_for_through_the_hub_again() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let store = FakeHub::start(&[(UNET, &weights(1))]);
    hub.next(UNET, Mischief::Redirect(format!("{}/store/{UNET}", store.endpoint)));
    store.next(&format!("/store/{UNET}"), Mischief::Status(403, vec![]));
    fetch(&hub, &order(), models.path()).unwrap();
    assert_eq!(store.asked().len(), 1);
}

#[test]
fn redirects_in_a_circle_or_to_a_strange_place_end() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    for _ in 0..20 {
        hub.next("listing", Mischief::Redirect(format!("/api/models/{ID}/revision/main")));
    }
    let circle = fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&circle, Fault::Broken(text) if text.contains("redirects without an end")), "{circle:?}");
    assert_eq!(hub.asked().len(), 8);
    let hub = small_model();
    hub.next("listing", Mischief::Redirect("file:///etc/passwd".into()));
    let strange = fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&strange, Fault::Broken(text) if text.contains("is not an address")), "{strange:?}");
}

/// A server that shows a certificate which nobody vouches for, and counts who comes. Both files are from
/// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out certificate.pem -days 36500
/// -subj /CN=test -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE`.
fn stranger() -> (String, Arc<AtomicUsize>) {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../../fixtures/tls/certificate.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../fixtures/tls/key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (endpoint, visits) = (format!("https://{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let counter = visits.clone();
    std::thread::spawn(move || {
        for mut visitor in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = ServerConnection::new(config.clone()).unwrap().complete_io(&mut visitor);
        }
    });
    (endpoint, visits)
}

#[test]
fn a_certificate_that_does_not_verify_is_said_at_once() {
    let ((endpoint, visits), models) = (stranger(), tempfile::tempdir().unwrap());
    let hub = Hub::at(&endpoint, None, patience()).unwrap();
    let fault = fault(pull(&hub, &order(), models.path(), &mut |_| (), &AtomicBool::new(false)));
    let says = |text: &str| ["invalid peer certificate", "SSL_CERT_FILE"].iter().all(|words| text.contains(words));
    assert!(matches!(&fault, Fault::Unreachable(text) if says(text)), "{fault:?}");
    assert_eq!(visits.load(Ordering::Relaxed), 1, "it was tried again");
    assert_eq!(files_in(models.path()), Vec::<String>::new());
}

#[test]
fn nobody_at_the_address_is_said_so() {
    let models = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Hub::at(&format!("http://127.0.0.1:{port}"), None, patience()).unwrap();
    let fault = fault(pull(&nobody, &order(), models.path(), &mut |_| (), &AtomicBool::new(false)));
    assert!(matches!(&fault, Fault::Unreachable(text) if text.starts_with("127.0.0.1 cannot be reached")), "{fault:?}");
}

#[test]
fn a_model_of_another_kind_is_refused_by_its_first_file() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    hub.put("model_index.json", br#"{"_class_name": "FluxPipeline"}"#);
    let fault = fault(fetch(&hub, &order(), models.path()));
    assert!(matches!(&fault, Fault::Unsuitable(text) if text.contains("\"FluxPipeline\" cannot be run")), "{fault:?}");
    assert_eq!(hub.files_asked(), ["model_index.json"]);
    assert_eq!(files_in(models.path()), Vec::<String>::new());
}

#[test]
fn a_crash_between_the_two_renames_is_set_right() {
    let (hub, models) = (small_model(), tempfile::tempdir().unwrap());
    let pulled = fetch(&hub, &order(), models.path()).unwrap();
    let workshop = models.path().join(".pull/tiny");
    fs::create_dir_all(&workshop).unwrap();
    fs::rename(&pulled.path, workshop.join("old")).unwrap();
    hub.asked();
    assert_eq!(fetch(&hub, &order(), models.path()).unwrap().fetched_files, 0);
    assert_eq!(hub.files_asked(), Vec::<String>::new());
    assert_eq!(files_in(models.path()), whole());
}
