"""What shared memory does to ids: by proof, by formula, by measurement. Pure functions; docs/theory.md has the proofs.

| module      | answers                                                                                     |
|-------------|---------------------------------------------------------------------------------------------|
| `occupancy` | how many codes are taken, how likely two ids coincide, how full the fullest bucket is       |
| `expected`  | distinct rows, shared terms and load of any method's address map, by formula                |
| `ranges`    | the same where ids of one table are read by different terms                                 |
| `sample`    | the same, measured on a sample of ids                                                       |
| `bounds`    | how much memory keeps all pairs of ids apart, with explicit constants                       |
| `inspection`| all of that for every table of a group at once                                              |
| `overlap`   | the same promise for any method's address map                                               |
| `sizes`     | the fewest rows of a split; the smallest size of a method at which a promise holds          |
"""
