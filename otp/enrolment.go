package otp

// Enrolment is what the directory knows of a user's codes. The zero value is
// somebody who is not enrolled.
type Enrolment struct {
	// User and Token name the two entries, by DN; Token is empty for somebody who
	// has no token.
	User, Token string
	Secret      []byte
	Params      Params
	// Last is the latest step of which a code was used (oathTOTPLastTimeStep); -1
	// for none yet.
	Last int64
	// Shift is oathTOTPTimeStepDrift, see Window.
	Shift int
	// Recovery are the recovery codes that are left, as HashRecovery makes them.
	Recovery []string
}

// Enrolled tells whether there is a token.
func (e Enrolment) Enrolled() bool { return e.Token != "" }
