#!/bin/bash
# foreign.sh high|low FOLDER ORGANISATION
# An organisation's authority with a client and an admin, made with openssl 3 alone; every signature has a high or a
# low s, as wanted. The keys are for tests and nothing else; the authority's own key is not kept.
set -e
want=$1; out=$2; org=$3
rm -rf $out; mkdir -p $out; work=$(mktemp -d)
s_is() { # high or low: the second INTEGER of the signature
  openssl x509 -in $1 -outform DER | python3 -c '
import sys
d=sys.stdin.buffer.read()
n=0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551
def tlv(b,o):
    l=b[o+1];h=2
    if l&0x80:
        k=l&0x7f;l=int.from_bytes(b[o+2:o+2+k],"big");h=2+k
    return b[o],o+h,o+h+l
_,a,_=tlv(d,0)
_,_,e=tlv(d,a);_,_,e=tlv(d,e);_,c,_=tlv(d,e)
_,i,_=tlv(d,c+1);_,_,e=tlv(d,i);_,s,t=tlv(d,e)
print("high" if int.from_bytes(d[s:t],"big")>n//2 else "low")'
}
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $1 2>/dev/null; chmod 600 $1; }
cat > $work/ca.cnf <<E
[ca]
default_ca = here
[here]
new_certs_dir = $work
database = $work/index
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
organizationName = optional
commonName = optional
[root]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectAltName = URI:obelisk://$org
subjectKeyIdentifier = hash
[enrolment]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = 1.3.6.1.4.1.32473.16.2
subjectAltName = URI:obelisk://$org/client/alice
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[admin]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = 1.3.6.1.4.1.32473.16.2
subjectAltName = URI:obelisk://$org/admin/carol
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[tls]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = URI:obelisk://$org/client/alice, DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
E
touch $work/index
cert() { # file, key, extensions, subject, more
  local file=$1 key=$2 ext=$3 subject=$4; shift 4
  openssl req -new -key $key -subj "$subject" -out $work/req
  for i in $(seq 100); do
    : > $work/index
    openssl ca -batch -notext -config $work/ca.cnf -extensions $ext -in $work/req -out $file \
      -startdate 20260101000000Z -enddate 21251231235959Z "$@" 2>/dev/null
    [ "$(s_is $file)" = "$want" ] && return
  done
  exit 1
}
key $work/ca.key
cert $out/root.pem $work/ca.key root "/O=$org/CN=openssl authority" -selfsign -keyfile $work/ca.key
key $out/key.pem; mkdir $out/tls; key $out/tls/key.pem
mkdir $out/admin; key $out/admin/key.pem
cert $out/cert.pem $out/key.pem enrolment "/O=$org/CN=alice" -cert $out/root.pem -keyfile $work/ca.key
cert $out/tls/cert.pem $out/tls/key.pem tls "/O=$org/CN=alice" -cert $out/root.pem -keyfile $work/ca.key
cert $out/admin/cert.pem $out/admin/key.pem admin "/O=$org/CN=carol" -cert $out/root.pem -keyfile $work/ca.key
for f in root.pem cert.pem admin/cert.pem tls/cert.pem; do echo $f $(s_is $out/$f); done
rm -r $work
