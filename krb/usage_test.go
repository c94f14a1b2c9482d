package krb

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/jcmturner/gokrb5/v8/crypto"
)

// TestNFold has the vectors of RFC 3961 §A.1.
func TestNFold(t *testing.T) {
	for _, v := range []struct{ in, want string }{
		{"012345", "be072631276b1955"},
		{"password", "78a07b6caf85fa"},
		{"Rough Consensus, and Running Code", "bb6ed30870b7f0e0"},
		{"password", "59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e"},
		{"MASSACHVSETTS INSTITVTE OF TECHNOLOGY", "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b"},
		{"Q", "518a54a215a8452a518a54a215a8452a518a54a215"},
		{"ba", "fb25d531ae8974499f52fd92ea9857c4ba24cf297e"},
		{"kerberos", "6b65726265726f73"},
		{"kerberos", "6b65726265726f737b9b5b2b93132b93"},
		{"kerberos", "8372c236344e5f1550cd0747e15d62ca7a5a3bcea4"},
		{"kerberos", "6b65726265726f737b9b5b2b93132b935c9bdcdad95c9899c4cae4dee6d6cae4"},
	} {
		want := unhex(t, v.want)
		if got := nfold([]byte(v.in), len(want)); !bytes.Equal(got, want) {
			t.Errorf("%d-fold(%q) = %x", 8*len(want), v.in, got)
		}
	}
}

// TestCTS has the vectors of RFC 3962 §B.
func TestCTS(t *testing.T) {
	block, err := aes.NewCipher([]byte("chicken teriyaki"))
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte("I would like the General Gau's Chicken, please, and wonton soup.")
	for size, want := range map[int]string{
		17: "c6353568f2bf8cb4d8a580362da7ff7f97",
		31: "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5",
		32: "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584",
		47: "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5",
		48: "97687268d6ecccc0c07b25e25ecfe5849dad8bbb96c4cdc03bc103e1a194bbd839312523a78662d5be7fcbcc98ebf5a8",
		64: "97687268d6ecccc0c07b25e25ecfe58439312523a78662d5be7fcbcc98ebf5a84807efe836ee89a526730dbc2f7bc8409dad8bbb96c4cdc03bc103e1a194bbd8",
	} {
		got := encryptCTS(block, plain[:size], 0)
		if hex.EncodeToString(got) != want {
			t.Errorf("%d bytes: %x", size, got)
		}
		if back := decryptCTS(block, got); !bytes.Equal(back, plain[:size]) {
			t.Errorf("%d bytes: back as %q", size, back)
		}
	}
}

// TestRFC8009 has the vectors of RFC 8009 §A: derived keys, messages and checksums.
func TestRFC8009(t *testing.T) {
	k128 := Key{AES128SHA2, unhex(t, "3705D96080C17728A0E800EAB6E0D23C")}
	k256 := Key{AES256SHA2, unhex(t, "6D404D37FAF79F9DF0D33568D320669800EB4836472EA8A026D16B7182460C52")}
	for _, v := range []struct {
		k    Key
		kind byte
		want string
	}{
		{k128, deriveChecksum, "B31A018A48F54776F403E9A396325DC3"},
		{k128, deriveEncryption, "9B197DD1E8C5609D6E67C3E37C62C72E"},
		{k128, deriveIntegrity, "9FDA0E56AB2D85E1569A688696C26A6C"},
		{k256, deriveChecksum, "EF5718BE86CC84963D8BBB5031E9F5C4BA41F28FAF69E73D"},
		{k256, deriveEncryption, "56AB22BEE63D82D7BC5227F6773F8EA7A5EB1C825160C38312980C442E5C7E49"},
		{k256, deriveIntegrity, "69B16514E3CD8E56B82010D5C73012B622C4D00FFC23ED1F"},
	} {
		if got := v.k.derive(2, v.kind); !bytes.Equal(got, unhex(t, v.want)) {
			t.Errorf("%s, %x: %x", v.k, v.kind, got)
		}
	}
	text := "000102030405060708090A0B0C0D0E0F1011121314"
	for _, v := range []struct {
		k                       Key
		confounder, plain, want string
	}{
		{k128, "7E5895EAF2672435BAD817F545A37148", "", "EF85FB890BB8472F4DAB20394DCA781DAD877EDA39D50C870C0D5A0A8E48C718"},
		{k128, "7BCA285E2FD4130FB55B1A5C83BC5B24", text[:12], "84D7F30754ED987BAB0BF3506BEB09CFB55402CEF7E6877CE99E247E52D16ED4421DFDF8976C"},
		{k128, "56AB21713FF62C0A1457200F6FA9948F", text[:32], "3517D640F50DDC8AD3628722B3569D2AE07493FA8263254080EA65C1008E8FC295FB4852E7D83E1E7C48C37EEBE6B0D3"},
		{k128, "A7A4E29A4728CE10664FB64E49AD3FAC", text, "720F73B18D9859CD6CCB4346115CD336C70F58EDC0C4437C5573544C31C813BCE1E6D072C186B39A413C2F92CA9B8334A287FFCBFC"},
		{k256, "F764E9FA15C276478B2C7D0C4E5F58E4", "", "41F53FA5BFE7026D91FAF9BE959195A058707273A96A40F0A01960621AC612748B9BBFBE7EB4CE3C"},
		{k256, "B80D3251C1F6471494256FFE712D0B9A", text[:12], "4ED7B37C2BCAC8F74F23C1CF07E62BC7B75FB3F637B9F559C7F664F69EAB7B6092237526EA0D1F61CB20D69D10F2"},
		{k256, "53BF8A0D105265D4E276428624CE5E63", text[:32], "BC47FFEC7998EB91E8115CF8D19DAC4BBBE2E163E87DD37F49BECA92027764F68CF51F14D798C2273F35DF574D1F932E40C4FF255B36A266"},
		{k256, "763E65367E864F02F55153C7E3B58AF1", text, "40013E2DF58E8751957D2878BCD2D6FE101CCFD556CB1EAE79DB3C3EE86429F2B2A602AC86FEF6ECB647D6295FAE077A1FEB517508D2C16B4192E01F62"},
	} {
		u, err := v.k.At(2)
		if err != nil {
			t.Fatal(err)
		}
		sealed := u.encrypt(unhex(t, v.confounder+v.plain))
		if !bytes.Equal(sealed, unhex(t, v.want)) {
			t.Errorf("%s: %x", v.k, sealed)
		}
		if plain, err := u.Decrypt(sealed); err != nil || !bytes.Equal(plain, unhex(t, v.plain)) {
			t.Errorf("%s: back as %x, %v", v.k, plain, err)
		}
	}
	for k, want := range map[*Key]string{&k128: "D78367186643D67B411CBA9139FC1DEE", &k256: "45EE791567EEFCA37F4AC1E0222DE80D43C3BFA06699672A"} {
		if sum, err := k.Checksum(2, unhex(t, text)); err != nil || !bytes.Equal(sum, unhex(t, want)) || !k.VerifyChecksum(2, unhex(t, text), sum) {
			t.Errorf("%s: %x, %v", k, sum, err)
		}
	}
}

// TestAgainstGokrb5: another implementation opens what we seal, and the other way
// round, at all lengths around blocks; and both make the same checksums.
func TestAgainstGokrb5(t *testing.T) {
	for id := AES128SHA1; id <= AES256SHA2; id++ {
		k, err := RandomKey(id)
		if err != nil {
			t.Fatal(err)
		}
		et, err := crypto.GetEtype(id)
		if err != nil {
			t.Fatal(err)
		}
		if k.ChecksumType() != et.GetHashID() {
			t.Errorf("%s: checksum type %d", k, k.ChecksumType())
		}
		for size := range 70 {
			usage, plain := uint32(1+size), bytes.Repeat([]byte{byte(size)}, size)
			sealed, err := k.Encrypt(usage, plain)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := et.DecryptMessage(k.Value, sealed, usage); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %d bytes: gokrb5 has %x, %v", k, size, got, err)
			}
			_, sealed, err = et.EncryptMessage(k.Value, plain, usage)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := k.Decrypt(usage, sealed); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %d bytes: we have %x, %v", k, size, got, err)
			}
			if _, err := k.Decrypt(usage+1, sealed); err == nil {
				t.Errorf("%s: opened at another usage", k)
			}
			sum, err := k.Checksum(usage, plain)
			if want, err2 := et.GetChecksumHash(k.Value, plain, usage); err != nil || err2 != nil || !bytes.Equal(sum, want) {
				t.Errorf("%s, %d bytes: checksum %x, not %x", k, size, sum, want)
			}
		}
	}
}

// TestAltered: no change of a ciphertext, and no shorter one, is opened.
func TestAltered(t *testing.T) {
	for id := AES128SHA1; id <= AES256SHA2; id++ {
		k, err := RandomKey(id)
		if err != nil {
			t.Fatal(err)
		}
		u, err := k.At(11)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := u.Encrypt([]byte("thirty-three bytes of plain text."))
		if err != nil {
			t.Fatal(err)
		}
		keep := bytes.Clone(sealed)
		for i := range sealed {
			for bit := range 8 {
				sealed[i] ^= 1 << bit
				if _, err := u.Decrypt(sealed); err == nil {
					t.Errorf("%s: byte %d changed, and opened", k, i)
				}
				sealed[i] ^= 1 << bit
			}
			if _, err := u.Decrypt(sealed[:i]); err == nil {
				t.Errorf("%s: cut at %d, and opened", k, i)
			}
		}
		if _, err := u.Decrypt(sealed); err != nil || !bytes.Equal(keep, sealed) {
			t.Errorf("%s: Decrypt changed its argument: %v", k, err)
		}
		if text := fmt.Sprintf("%v %+v %#v", u, u, u); strings.Contains(text, fmt.Sprint(u.ki)) || strings.Contains(text, fmt.Sprintf("%#v", u.ki)) {
			t.Error("printing a UsageKey shows keys")
		}
	}
	if _, err := (Key{23, make([]byte, 16)}).At(2); err == nil {
		t.Error("an RC4 key has usages")
	}
	if _, err := (Key{18, make([]byte, 31)}).At(2); err == nil {
		t.Error("a short key has usages")
	}
}
