// Package pamhelper is what Sekisho has to do with PAM on both sides of it.
//
// In the folder module, C: pam_sekisho.so, the module through which a host's
// programs ask sekishod. It is not part of this Go package.
//
// Here, Go without cgo: how sekishod has a host's own PAM stack prove a
// password for it, as the prover pam:SERVICE. The stack itself runs in
// sekisho-pam, a program of its own and root's, because modules are C, may
// hang or crash, and mostly want to be root.
//
// # Who may ask
//
// sekishod holds one end of a socket pair whose other end sekisho-pam was
// started with, and sends it a connection for each conversation ([Held]). No
// other process can; not the servers either that run as the same user. By hand,
// sekisho-pam listens on a socket in the file system instead ([Socket]). Both
// ways it asks the kernel who made the connection. Whoever may ask can try
// passwords against the stacks that sekisho-pam was started for, and hold its
// places; he can choose neither other stacks nor what modules find in their
// environment beyond [Call].Env.
//
// # What is said
//
// The bytes are package wire's. A connection is one conversation:
//
//	run     service user [tty] [rhost] [ruser] [env-1 … env-8]
//	answer  [a1] … [a8]
//
// run begins it: pam_start(3) with the service and the user, the items, and
// each env-N, "NAME=value", into PAM's environment; then pam_authenticate(3)
// and pam_acct_mgmt(3). Each message of the modules that wants a reply is
// answered with "no", the reason "prompt" and lines "KIND TEXT": any number of
// info and error, which want no reply, and secret (not echoed) or visible (which
// is echoed). answer has one field for each that wants a reply, in order.
//
// The last answer is
//
//	yes      both calls returned PAM_SUCCESS for the user that was asked for
//	no       the stack said so; the reason is PAM's code, such as auth-err
//	unknown  it could not find out, or it could not be asked
//
// with lines "info TEXT" and "error TEXT" that came since the last prompt, and
// after a yes one line "env NAME BASE64" for each of PAM's environment. Reasons
// are PAM's return codes in lower case with dashes and without PAM_, and those
// of [ReasonHung] and its neighbours.
package pamhelper
