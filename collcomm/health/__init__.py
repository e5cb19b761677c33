"""Health: what each peer records of its operations, and what follows from the records of all of them.

records      what one peer keeps of each operation, and of what it moved to and from each other member
observation  what a peer tells of itself, once a second, to whoever diagnoses
finding      what the diagnosis says: syndrome, culprit, evidence
diagnosis    the pure state machine from the one to the other, and a table of its rules; `limits`: what these go by
checksums    what tells a wrong reduction from a right one; `twice`, where no checksum does; `audit`, whose fault it is
corruption   how that is told
"""
