use pentimento_kernels::MappedFile;

fn path(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("pentimento-kernels-{}-{name}", std::process::id()))
}

#[test]
fn reads_what_the_file_holds() {
    for (name, contents) in [("full", &b"weights"[..]), ("empty", b"")] {
        let path = path(name);
        std::fs::write(&path, contents).unwrap();
        assert_eq!(&*MappedFile::open(&path).unwrap(), contents);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_missing_file_is_an_error() {
    assert_eq!(MappedFile::open(path("missing")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}
