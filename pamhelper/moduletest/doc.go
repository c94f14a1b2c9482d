// Package moduletest proves pam_sekisho.so: that each answer of sekishod gets its
// code in PAM, that no answer, fault or program that loads it makes it open,
// hang, leak or crash, and that unmodified sshd, login, su, sudo and passwd call
// it as it expects. It holds tests only.
//
// testdata/host.c is a program that loads the module through libpam, as any
// would, and can be an unkind one: closed descriptors, odd umask, signals,
// threads, another user. testdata/fuzz.c runs the module on answers out of
// memory for the fuzz target.
package moduletest
