// Package testenv is a small world of real servers and clients for the tests,
// the demo and the benchmarks: real slapd, krb5kdc, sshd and ssh on hosts that
// are namespaces of the kernel, in one sandbox that changes nothing on the
// machine and dies with the run.
//
// A test package enters the sandbox in its TestMain:
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
// From then on every test of the package runs as root in namespaces of its own
// (mount, pid, net, ipc, uts):
//
//   - / is read-only, except the module's directory and what the go tool's flags
//     name. /etc, /var, /usr/local and /opt are overlays, /run, /tmp, /home, /root
//     and /mnt are empty and in memory. All of it is gone when the run ends.
//   - /sys/fs/cgroup is cgroup2, where the machine has it: a folder of the
//     machine's that is removed at the end. Every host has one of its own in it,
//     unless its world does without (WorldConfig.NoCgroup).
//   - There is no route out. Loopback is up; the bridge "world" has 203.0.113.1
//     and 2001:db8::1, and every host is on it.
//   - TMPDIR (so t.TempDir) is /mnt/tmp, whose parents are root's and not writable
//     by others, so sshd accepts an AuthorizedKeysCommand below it. It is visible
//     under the same path in every host.
//   - The users sekisho and sekisho-keys exist.
//   - The programs of cmd/ are built before the sandbox is entered and are at
//     /usr/local/bin/sekishod, /usr/local/bin/sekisho and
//     /usr/local/lib/sekisho/sekisho-keys, the PAM module is at
//     /usr/local/lib/sekisho/pam_sekisho.so; ask [Program] for the path, it tells
//     why a program could not be built.
//   - The go tool should not be used.
//
// Root is needed; when the run is not root's, sudo must work without a password.
// Use go test -count=1: the go tool cannot know that a test depends on cmd/.
//
// A world with two hosts, and a login from one to the other:
//
//	func TestLogin(t *testing.T) {
//		w := testenv.ForTest(t)             // closed, and its logs shown, by t
//		web, client := w.Need(t, "web1"), w.Need(t, "client")
//		key, err := testenv.NewKey("alice@client")
//		...
//		err = web.AddUser(testenv.LocalUser{Name: "alice", UID: 2001})
//		err = web.WriteFile("/home/alice/.ssh/authorized_keys", key.Public, 0o644)
//		_, err = web.StartSSHD(ctx, testenv.SSHDConfig{})
//		out, err := client.SSH(ctx, testenv.SSHCall{To: web, User: "alice", Key: key, Command: "id -un"}).Output()
//	}
//
// Clocks go wrong on purpose: [Host.MoveClock] moves that of a host's C programs
// while they run, [Host.StartChronyd] serves it by NTP, and [StartNTP] lies. Go
// programs keep the machine's clock.
//
// Everything a test can do a program can do: [NewWorld] and all methods return
// errors and know nothing of package testing. A program calls [Reexec] first
// thing in main. The demo keeps a sandbox beyond its own life with [StartHolder]
// and comes back to it with [OpenHolder].
package testenv
